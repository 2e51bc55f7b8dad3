"""Change of the next token that a model expects between two runs.

Axes: compared pair (P), candidate (C, likely next tokens, most likely first), draw.

A trace holds the likeliest tokens alone, so the distance of two distributions over the whole
vocabulary is not known, but bounds of it are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.prompt_pairs.paired_routing import Paired
from lens.prompt_pairs.token_blocks import TokenBlocks, block_orders, token_blocks
from lens.stats.draws import affordable_draws, check_draws
from lens.stats.p_values import monte_carlo_p
from lens.stats.permutation_tests import DRAWS, SEED


class Expecting(Protocol):
    """Parts of a trace that are read."""

    @property
    def candidates(self) -> np.ndarray: ...
    @property
    def candidate_probs(self) -> np.ndarray: ...


def variation_bounds(
    ids: Int[np.ndarray, "*pair candidate"],
    probs: Float[np.ndarray, "*pair candidate"],
    other_ids: Int[np.ndarray, "*pair candidate"],
    other_probs: Float[np.ndarray, "*pair candidate"],
) -> tuple[Float[np.ndarray, "*pair"], Float[np.ndarray, "*pair"]]:
    """Least and largest total variation that two lists of likeliest tokens leave possible.

    ½ Σ_v |p_v − q_v| = Σ_v (p_v − q_v)⁺ = 1 − Σ_v min(p_v, q_v). Of tokens in both lists both
    probabilities are known. One that is in the first list alone has at most the smallest
    probability of the other list there, and all such together at most what that list leaves.

    Reading it: 0 is the same distribution, 1 are distributions without a common token. It is
    the largest difference in probability of any set of next tokens.
    """
    p, q = (np.asarray(x, dtype=np.float64) for x in (probs, other_probs))
    meet = np.asarray(ids)[..., :, None] == np.asarray(other_ids)[..., None, :]
    q_of_p = (meet * q[..., None, :]).sum(axis=-1)  # 0 where the other list does not have it
    p_of_q = (meet * p[..., :, None]).sum(axis=-2)
    low = np.maximum(
        _least_excess(p, q_of_p, meet.any(axis=-1), q), _least_excess(q, p_of_q, meet.any(-2), p)
    )
    high = 1 - np.minimum(p, q_of_p).sum(axis=-1)
    return np.clip(low, 0, 1), np.clip(high, low, 1)


def _least_excess(
    p: np.ndarray, other: np.ndarray, known: np.ndarray, listed: np.ndarray
) -> np.ndarray:
    """Σ (p − q)⁺ over the tokens of one list, at least."""
    sure = np.where(known, np.maximum(p - other, 0), 0).sum(axis=-1)
    most = listed.min(axis=-1, initial=1.0)[..., None]
    left = np.maximum(1 - listed.sum(axis=-1), 0)
    alone = np.where(known, 0, p)
    one_by_one = np.where(known, 0, np.maximum(p - most, 0)).sum(axis=-1)
    return sure + np.maximum(one_by_one, alone.sum(axis=-1) - left)


@dataclass(frozen=True, eq=False)
class NextTokenChange:
    """Change of the next-token distribution after each compared token.

    Attributes:
        pairs: the aligned pairs.
        low, high: bounds of the total variation.
        likeliest: whether the likeliest next token is another one.
        value: mean of `low` over the pairs.
        mean, mean_low, mean_high: the same for tokens of the two runs put together anew, with
            the limits that hold one more draw in 95 of 100 cases.
        p: share of the draws with as little change, the value counted as one of them.
        blocks: of neighbours that stay together in it.
        draws, seed, method: of that null.
    """

    pairs: Int[np.ndarray, " pair"]
    low: Float[np.ndarray, " pair"]
    high: Float[np.ndarray, " pair"]
    likeliest: Bool[np.ndarray, " pair"]
    value: float
    mean: float
    mean_low: float
    mean_high: float
    p: float
    blocks: TokenBlocks
    draws: int
    seed: int
    method: str


def next_token_change(
    runs: Paired,
    first: Expecting,
    second: Expecting,
    *,
    block: int | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> NextTokenChange:
    """Bounds of the change after every compared token, beside that of unrelated tokens.

    The null puts the second run's compared tokens into another order as `agreement_test` does.
    Reading it: the mean says how much of the expectation the two texts do not share where
    they have the same token; by chance it is what two unrelated places of them do not share.

    Args:
        runs: what is compared.
        first, second: the traces with their candidates.
        block: neighbours that stay together; by default as `token_blocks` says.
        draws, seed: of the orders.

    Raises:
        LensError: nothing to compare, or traces without candidates.
    """
    if min(first.candidates.shape[1], second.candidates.shape[1]) == 0 or len(runs.pairs) == 0:
        raise LensError(
            f"Next tokens: {len(runs.pairs)} tokens to compare, with "
            f"{first.candidates.shape[1]} and {second.candidates.shape[1]} candidates after each; "
            "expected at least one of all. Trace texts that share words after their first "
            "difference, with candidates."
        )
    at, other = runs.at
    ids, probs = first.candidates[at], first.candidate_probs[at]
    other_ids, other_probs = second.candidates[other], second.candidate_probs[other]
    low, high = variation_bounds(ids, probs, other_ids, other_probs)
    work = float(ids.size) * other_ids.shape[1]
    draws = affordable_draws(work, check_draws(draws), most=1e8)
    blocks = token_blocks(low[None], block)
    drawn = np.array(
        [
            variation_bounds(ids, probs, other_ids[order], other_probs[order])[0].mean()
            for order in block_orders(len(at), blocks.length, draws, seed)
        ]
    )
    ends = np.quantile(drawn, [0.025, 0.975], method="weibull")
    value = float(low.mean())
    return NextTokenChange(
        pairs=runs.pairs,
        low=low,
        high=high,
        likeliest=ids[:, 0] != other_ids[:, 0],
        value=value,
        mean=float(drawn.mean()),
        mean_low=float(ends[0]),
        mean_high=float(ends[1]),
        p=float(monte_carlo_p(-value, -drawn)),
        blocks=blocks,
        draws=draws,
        seed=seed,
        method=f"{blocks.text} of one run put into random order, {draws:,} times",
    )


@dataclass(frozen=True, eq=False)
class Expected:
    """Next tokens of two runs at one place, the likeliest of either first.

    Attributes:
        ids: of the tokens.
        pieces: their texts.
        before, after: probabilities; not a number where a trace does not list the token.
        most_before, most_after: the largest that an unlisted token can have.
    """

    ids: Int[np.ndarray, " candidate"]
    pieces: list[str]
    before: Float[np.ndarray, " candidate"]
    after: Float[np.ndarray, " candidate"]
    most_before: float
    most_after: float


def expected_tokens(
    first: Expecting,
    second: Expecting,
    place: int,
    other: int,
    piece_of: Sequence[dict[int, str]] = (),
    *,
    most: int = 12,
) -> Expected:
    """Next tokens that both runs expect after a position of each.

    Args:
        first, second: traces with candidates.
        place, other: the token in the first run and in the second.
        piece_of: texts of ids; ids that none of them has are named by number.
        most: tokens to list.
    """
    lists = [
        dict(zip(run.candidates[at].tolist(), run.candidate_probs[at].tolist(), strict=True))
        for run, at in ((first, place), (second, other))
    ]
    either = sorted(
        {**lists[0], **lists[1]},
        key=lambda token: (-max(one.get(token, 0.0) for one in lists), token),
    )[:most]
    before, after = (np.array([one.get(v, np.nan) for v in either], float) for one in lists)
    most_before, most_after = (
        min(min(one.values()), max(1 - sum(one.values()), 0)) if one else 1.0 for one in lists
    )
    texts: dict[int, str] = {}
    for known in piece_of:
        texts |= known
    names = [texts.get(token, f"id {token}") for token in either]
    ids = np.array(either, dtype=np.int32)
    return Expected(ids, names, before, after, most_before, most_after)
