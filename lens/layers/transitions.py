"""Where routing changes from one layer to the next: changes beyond those of unrelated layers.

Axes: pair (adjacent layers l and l + 1, in order), draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lens.layers.draws import DRAWS, SEED
from lens.layers.pair_null import adjacent_null
from lens.layers.similarity import adjacent_layers
from lens.routers.gram import RouterGram
from lens.stats.p_values import monte_carlo_p

LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class Transitions:
    """The change of similarity from each adjacent pair of layers to the next.

    Attributes:
        change: similarity of a pair less that of the pair before; not a number for
            the first pair. Below 0 is a drop.
        p: probability that unrelated layers give so large a change, up or down,
            anywhere in the series (max-statistic, so already for all pairs together).
        threshold: the change that 5 % of series of unrelated layers exceed somewhere.
        classic: |Δ| > 2σ of the series itself. It marks 2.8 of 62 pairs in pure noise.
        found: marked by the classic rule, and beyond the threshold.
        draws, seed: of the null.
    """

    change: Float[np.ndarray, " pair"]
    p: Float[np.ndarray, " pair"]
    threshold: float
    classic: Bool[np.ndarray, " pair"]
    found: Bool[np.ndarray, " pair"]
    draws: int
    seed: int


def transitions(
    gram: RouterGram, metric: str = "cka", *, draws: int = DRAWS, seed: int = SEED
) -> Transitions:
    """Adjacent pairs at which the similarity of neighbours changes by more than chance.

    With Δ_l = s(l, l+1) − s(l−1, l), every draw turns all layers at random and
    keeps the largest |Δ| of its whole series; p is the share of draws whose largest
    is at least |Δ_l|. In noise, one series in twenty has a single false mark.

    The null says what unrelated layers do. Layers that are related vary by more
    than that everywhere, so that nearly all their changes would pass; a pair is
    therefore called a transition only if it also stands out of its own series
    by the classic rule.

    Args:
        gram: inner products of the view to be compared.
        metric: an id of `lens.layers.similarity.LAYER_METRICS`.
        draws: series drawn.
        seed: of the draws.
    """
    adjacent = adjacent_layers(gram, metric)
    change = np.diff(adjacent.similarity, prepend=np.nan)
    if len(change) < 2:
        nothing = np.zeros(len(change), bool)
        return Transitions(
            change, np.full(len(change), np.nan), np.nan, nothing, nothing, draws, seed
        )
    null = np.abs(np.diff(adjacent_null(gram, metric, draws=draws, seed=seed), axis=1)).max(axis=1)
    p = monte_carlo_p(np.abs(change), null[:, None])
    classic = adjacent.classic_transitions
    return Transitions(
        change=change,
        p=p,
        threshold=float(np.quantile(null, 1 - LEVEL)),
        classic=classic,
        found=classic & (p <= LEVEL),
        draws=draws,
        seed=seed,
    )
