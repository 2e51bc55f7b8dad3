"""The largest of many streamed values, row by row, and who held them.

Axes: row (whatever is ranked), token (of a block), rank.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


class Largest:
    """For every row its `kept` largest values so far, with their tokens and a value beside each.

    The order is that of the values, and of the tokens where values are equal, so
    that the result does not depend on how the tokens were cut into blocks.

    Attributes:
        values: largest first; -inf where fewer were seen.
        tokens: who held them; -1 where fewer were seen.
        beside: what was given along with them.
    """

    def __init__(self, n_rows: int, kept: int) -> None:
        self.values = np.full((n_rows, kept), -np.inf, np.float32)
        self.tokens = np.full((n_rows, kept), -1, np.int64)
        self.beside = np.full((n_rows, kept), np.nan, np.float32)

    def add(
        self,
        values: Float[np.ndarray, "row token"],
        start: int,
        beside: Float[np.ndarray, "row token"] | None = None,
    ) -> None:
        """Take in the values of tokens `start`, `start` + 1 … ; tokens come in rising order."""
        kept = self.values.shape[1]
        least = self.values[:, -1]
        if values.shape[1] > kept and np.isneginf(least).any():
            place = values.shape[1] - kept
            least = np.maximum(least, np.partition(values, place, axis=1)[:, place])
            better = values >= least[:, None]
        else:  # a later token that merely equals the least kept comes after it
            better = values > least[:, None]
        row, token = np.nonzero(better)
        if not len(row):
            return
        rows = np.unique(row)
        new = np.full(len(row), np.nan, np.float32) if beside is None else beside[row, token]
        all_rows = np.concatenate([np.repeat(rows, kept), row])
        all_values = np.concatenate([self.values[rows].ravel(), values[row, token]])
        all_tokens = np.concatenate([self.tokens[rows].ravel(), token + start])
        all_beside = np.concatenate([self.beside[rows].ravel(), new])
        # Places not filled yet hold token -1 and -inf: they come last whatever is added.
        order = np.lexsort((all_tokens, -all_values, all_rows))
        ends = np.searchsorted(all_rows[order], rows)
        first = order[ends[:, None] + np.arange(kept)]
        self.values[rows] = all_values[first]
        self.tokens[rows] = all_tokens[first]
        self.beside[rows] = all_beside[first]


def selection_thresholds(
    scores: Float[np.ndarray, "layer expert token"], top_k: int
) -> tuple[Float[np.ndarray, "layer token"], Float[np.ndarray, "layer token"]]:
    """The top_k-th largest score of every token in every layer, and the next after it.

    With top_k experts in all there is no next: -inf.
    """
    n_layers, n_experts, n_tokens = scores.shape
    ranked = np.full((top_k + 1, n_layers, n_tokens), -np.inf, scores.dtype)
    for expert in range(n_experts):
        value = scores[:, expert]
        for rank in range(min(top_k, expert) + 1):
            larger = np.maximum(ranked[rank], value)
            value = np.minimum(ranked[rank], value)
            ranked[rank] = larger
    return ranked[top_k - 1], ranked[top_k]


def selection_counts(
    scores: Float[np.ndarray, "layer expert token"],
    last: Float[np.ndarray, "layer token"],
    following: Float[np.ndarray, "layer token"],
    top_k: int,
) -> Int[np.ndarray, "layer expert"]:
    """Number of tokens that each expert is selected for.

    Of experts with equal scores those with smaller indexes are selected, as the
    model does it.

    Args:
        last, following: of `selection_thresholds`.
    """
    counts = np.count_nonzero(scores >= last[:, None], axis=2)
    layer, token = np.nonzero(last == following)
    if len(layer):
        tied = scores[layer, :, token]  # [tie, expert]
        rank = np.argsort(np.argsort(-tied, axis=1, kind="stable"), axis=1)
        too_many = (tied >= last[layer, token][:, None]) & (rank >= top_k)
        np.subtract.at(counts, layer, too_many)
    return counts


def margins(
    scores: Float[np.ndarray, "*shape"],
    last: Float[np.ndarray, "*shape"],
    following: Float[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
    """By how much a score is above (or, negative, below) what decides its selection.

    The score less the top_k-th largest of the other experts' scores. Above 0 the
    expert is selected, and the value says how much it could lose; below 0 it is
    not, and the value says how much it lacks. Not a number where all experts are
    selected.
    """
    margin = scores - np.where(scores >= last, following, last)
    return np.where(np.isfinite(margin), margin, np.nan)
