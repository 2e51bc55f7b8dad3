"""Pushes of all tokens on experts, mixtures and random directions, while the tokens come in.

Axes: row (experts of all layers, random directions, mixtures of the experts of all layers),
token (B of a block), layer (L), expert (E), mixture (R of a layer), d_model (d).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.routers.router_set import RouterSet
from lens.vocabulary.mixed_experts import LongTokens
from lens.vocabulary.readout_null import MixedShares
from lens.vocabulary.top_tokens import Largest, margins, selection_counts, selection_thresholds

SAMPLE = 4096  # tokens on which the chance level of shares is computed, about


class StreamedPushes:
    """What is kept of the pushes, block after block.

    Args:
        routers: whose experts are read.
        stacked: their columns and the random directions.
        norm: lengths of the columns.
        mixtures: weights of the experts in each, see `layer_mixtures`.
        long: told about all pushes.
        settings: tokens that will come, and how many are kept of each row.

    Attributes:
        n_rows: experts, random directions and mixtures.
        top, bottom: the most extreme tokens of each row, `bottom` with the sign changed.
        counts: tokens for which each expert would be selected.
        shares: the same of mixed layers, on some of the tokens.
        silent: tokens whose embedding is zero.
        seen: tokens so far.
    """

    def __init__(
        self,
        routers: RouterSet,
        stacked: Float[np.ndarray, "row d_model"],
        norm: Float[np.ndarray, "layer expert"],
        mixtures: Float[np.ndarray, "layer mixture expert"],
        long: LongTokens,
        settings: tuple[int, int],
    ) -> None:
        self.shape, self.top_k = (routers.n_layers, routers.n_experts), routers.top_k
        self.biases = 0.0 if routers.biases is None else routers.biases[:, :, None]
        self.stacked, self.mixtures, self.long = stacked, mixtures, long
        self.n_rows = len(stacked) + mixtures.shape[0] * mixtures.shape[1]
        n_tokens, kept = settings[0], min(settings)
        self.top, self.bottom = Largest(self.n_rows, kept), Largest(self.n_rows, kept)
        self.counts = np.zeros(self.shape, np.int64)
        self.sums = np.zeros((2, self.n_rows))
        self.stride = -(-n_tokens // SAMPLE)
        self.shares = MixedShares(routers, norm, mixtures.shape[1] // routers.n_experts)
        self.silent = self.seen = 0

    def add(
        self, block: Float[np.ndarray, "token d_model"], multiplier: float, epsilon: float
    ) -> None:
        """Takes in the tokens that follow."""
        start, n_units, n_read = self.seen, self.shape[0] * self.shape[1], len(self.stacked)
        inverse, zeros = inverse_rms(block, multiplier, epsilon, start)
        pushes = np.empty((self.n_rows, len(block)), np.float32)
        np.matmul(self.stacked, block.T, out=pushes[:n_read])
        pushes[:n_read] *= inverse
        units = pushes[:n_units].reshape(*self.shape, -1)
        mixed = pushes[n_read:].reshape(*self.mixtures.shape[:2], -1)
        np.matmul(self.mixtures, units, out=mixed)
        self.sums[0] += pushes.sum(axis=1, dtype=np.float64)
        self.sums[1] += np.einsum("ub,ub->u", pushes, pushes, dtype=np.float64)
        scores = units + self.biases
        last, following = selection_thresholds(scores, self.top_k)
        self.counts += selection_counts(scores, last, following, self.top_k)
        beside = np.full(pushes.shape, np.nan, np.float32)
        beside[:n_units] = margins(scores, last[:, None], following[:, None]).reshape(n_units, -1)
        self.shares.add(mixed[:, :, -start % self.stride :: self.stride])
        self.long.add(units)
        self.top.add(pushes, start, beside)
        self.bottom.add(np.negative(pushes, out=pushes), start, beside)
        self.silent += zeros
        self.seen += len(block)

    def mean_and_sd(self) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
        """Mean and standard deviation of the push along each row over all tokens so far."""
        mean = self.sums[0] / self.seen
        return mean, np.sqrt(np.maximum(self.sums[1] / self.seen - mean**2, 0))


def inverse_rms(
    block: np.ndarray, multiplier: float, epsilon: float, start: int
) -> tuple[Float[np.ndarray, " token"], int]:
    """Factor of each row to become x̂, and how many rows are zero."""
    squares = np.einsum("td,td->t", block, block)
    if not np.isfinite(squares).all():
        token = start + int(np.argmin(np.isfinite(squares)))
        raise LensError(
            f"The embedding of token {token} is not finite, or too large to be squared in float32; "
            "expected numbers below 1e18. The file is damaged; get it again."
        )
    mean = squares.astype(np.float64) / block.shape[1]
    inverse = multiplier / np.sqrt(multiplier**2 * mean + epsilon)
    return inverse.astype(np.float32), int(np.count_nonzero(squares == 0))
