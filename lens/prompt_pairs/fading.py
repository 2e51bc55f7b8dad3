"""Fading of the difference between two texts as the texts run on alike.

Axes: layer (L), compared pair (P), draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.prompt_pairs.alignment import SAME
from lens.prompt_pairs.paired_routing import Paired
from lens.prompt_pairs.token_blocks import TokenBlocks, block_orders, token_blocks
from lens.stats.draws import check_draws
from lens.stats.p_values import monte_carlo_p
from lens.stats.permutation_tests import DRAWS, SEED
from lens.traces.routing import overlap

FEWEST = 8  # pairs whose order says something


@dataclass(frozen=True, eq=False)
class Fading:
    """Experts that the same tokens keep, by how long the texts have been alike.

    Attributes:
        distance: same tokens since the last change, 1 for the first one after it.
        kept: share of experts in common, mean over layers.
        correlation: Spearman's, of both; above 0 the texts' routing comes together again.
        low, high: the limits that hold one more draw in 95 of 100 cases.
        p: two-sided.
        blocks: of neighbours that stay together in the null.
        draws, seed, method: of the null.
    """

    distance: Int[np.ndarray, " pair"]
    kept: Float[np.ndarray, " pair"]
    correlation: float
    low: float
    high: float
    p: float
    blocks: TokenBlocks
    draws: int
    seed: int
    method: str


def since_change(kind: Int[np.ndarray, " pair"]) -> Int[np.ndarray, " pair"]:
    """Same tokens since the last change, itself included; counted from the start before any."""
    at = np.arange(len(kind))
    last = np.maximum.accumulate(np.where(kind == SAME, -1, at))
    return at - last


def fading(
    runs: Paired, *, block: int | None = None, draws: int = DRAWS, seed: int = SEED
) -> Fading:
    """Rank correlation of the experts kept with the distance from the last change.

    The null puts the distances into another order as `agreement_test` does with tokens: turned
    round and in shuffled blocks, so that neighbours stay alike; blocks are as long as the
    likeness of neighbours' ranks, without what the distance explains, asks for.

    Reading it: +1 says that each further token of the same text keeps more experts, 0 that a
    change matters as much later on. Where `blocks.too_few`, nothing is told. A text that ends
    in easier tokens looks the same: this is one pair of texts.

    Raises:
        LensError: fewer than eight tokens, or no two that differ in distance or in experts kept.
    """
    from scipy.stats import rankdata

    distance = since_change(runs.alignment.kind)[runs.pairs]
    at, other = runs.at
    if len(distance) < FEWEST:
        raise LensError(
            f"Fading: {len(distance)} tokens to compare; expected at least {FEWEST}. Compare "
            "texts with more words in common after their first difference."
        )
    kept = overlap(runs.first.experts[:, at], runs.second.experts[:, other]).mean(axis=0)
    ranks = [rankdata(values) for values in (kept, distance)]
    one, two = (rank - rank.mean() for rank in ranks)
    size = float(np.sqrt((one**2).sum() * (two**2).sum()))
    if not size > 0:
        raise LensError(
            "Fading: all tokens keep as many of their experts, or stand as far from a change, so "
            "there is no order to look for."
        )
    value = float(two @ one / size)
    rest = one - two * (two @ one) / (two @ two)
    blocks = token_blocks(rest[None], block)
    orders = block_orders(len(distance), blocks.length, check_draws(draws), seed)
    drawn = two[orders] @ one / size
    upper, lower = float(monte_carlo_p(value, drawn)), float(monte_carlo_p(-value, -drawn))
    ends = np.quantile(drawn, [0.025, 0.975], method="weibull")
    return Fading(
        distance=distance,
        kept=kept,
        correlation=value,
        low=float(ends[0]),
        high=float(ends[1]),
        p=min(2 * min(upper, lower), 1.0),
        blocks=blocks,
        draws=draws,
        seed=seed,
        method=f"{blocks.text} put into random order, {draws:,} times",
    )
