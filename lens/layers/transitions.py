"""Where routing changes from one layer to the next: changes beyond those of other layers.

Axes: pair (adjacent layers l and l + 1, in order), draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lens.layers.draws import DRAWS, SEED
from lens.layers.pair_null import LayerNull, adjacent_null
from lens.layers.similarity import AdjacentLayers
from lens.routers.expert_mixing import expert_mixings, mixed_matches
from lens.routers.gram import RouterGram
from lens.stats.p_values import monte_carlo_p

LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class Transitions:
    """The change of similarity from each adjacent pair of layers to the next.

    Attributes:
        change: similarity of a pair less that of the pair before; not a number for
            the first pair. Below 0 is a drop.
        p: probability that a drawn series gives so large a change, up or down,
            anywhere (max-statistic, so already for all pairs together).
        threshold: the change that 5 % of drawn series exceed somewhere.
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


def drawn_series(
    gram: RouterGram, null: LayerNull, *, draws: int = DRAWS, seed: int = SEED
) -> Float[np.ndarray, "draw pair"]:
    """Similarities of neighbours, draw by draw, under the reference of a null.

    Unrelated directions: every layer turned at random. What all layers share: experts mixed
    within each layer where they are matched; else random paths through the drawn sets of
    layers, whose order means nothing. A path through fewer layers than there are is
    continued by another.

    Args:
        gram: inner products of what the null looked at.
        null: of all pairs of the same set.
        draws: series.
        seed: of the draws.
    """
    n_links = gram.n_layers - 1
    if null.reference != "shared":
        return adjacent_null(gram, null.metric, draws=draws, seed=seed)
    if null.sets is None:
        mixings = expert_mixings(gram.n_layers, gram.n_experts, draws, seed)
        pairs = [mixed_matches(gram, a, a + 1, mixings).mean(axis=1) for a in range(n_links)]
        return np.stack(pairs, axis=1) if pairs else np.empty((draws, 0))
    rng = np.random.default_rng(seed)
    n_sets, n_layers = null.sets.shape[:2]
    paths = -(-n_links // (n_layers - 1))
    orders = rng.permuted(np.tile(np.arange(n_layers), (draws * paths, 1)), axis=1)
    which = rng.integers(n_sets, size=(draws * paths, 1))
    beside = null.sets[which, orders[:, :-1], orders[:, 1:]]
    return beside.reshape(draws, -1)[:, :n_links]


def transitions(adjacent: AdjacentLayers, series: np.ndarray, seed: int = SEED) -> Transitions:
    """Adjacent pairs at which the similarity of neighbours changes by more than chance.

    With Δ_l = s(l, l+1) − s(l−1, l), every drawn series keeps its largest |Δ|; p is the share
    of draws whose largest is at least |Δ_l|. In noise, one series in twenty has a single
    false mark.

    A pair is called a transition only if it also stands out of its own series by the classic
    rule: a model whose layers are related unevenly would have nearly all its changes pass.

    Args:
        adjacent: the neighbours.
        series: drawn, from `drawn_series`.
        seed: that it was drawn with.
    """
    change = np.diff(adjacent.similarity, prepend=np.nan)
    draws = len(series)
    if len(change) < 2:
        nothing = np.zeros(len(change), bool)
        return Transitions(
            change, np.full(len(change), np.nan), np.nan, nothing, nothing, draws, seed
        )
    null = np.abs(np.diff(series, axis=1)).max(axis=1)
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
