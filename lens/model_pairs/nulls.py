"""Nulls of two router sets in one residual stream: their layers, their experts, their breadth.

Axes: layer (of A and then of B), pair (a layer of A with one of B), expert (E), draw.

Two models of one residual stream have norm scales, outlier dimensions and a common subspace
in common, whatever became of their layers. So layers are set against mixtures of all layers
of both sets, experts against experts that are mixed within their layers. Unrelated
directions, the absolute zero, stand beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.experts.selection import MANY_EXPERTS, selected_share
from lens.experts.unequal_experts import DEALT, MIXTURES, Null, equal_experts
from lens.layers.draws import rotation_draws
from lens.layers.pair_null import LayerNull, layer_null
from lens.layers.shared_directions import shared_null, without_shared
from lens.routers.expert_mixing import expert_mixings, mixed_matches
from lens.routers.gram import RouterGram
from lens.routers.matching import assign
from lens.routers.router_set import RouterSet
from lens.stats.exponential_tail import pooled_tail_p

MATCHED_VALUES = 4000  # drawn for each pair of layers and way of mixing, over its experts
# Fewer layers of both sets together do not tell what all of them share.
FEWEST_LAYERS = 6
# Changes of breadth that are drawn, of few experts and of many, and sets made of them.
CHANGES, CHANGES_OF_MANY = 400, 64
SETS = 1000


def layer_nulls(
    gram: RouterGram, view: str, metric: str, draws: int, seed: int
) -> tuple[LayerNull | None, LayerNull]:
    """Pairs of layers against mixtures of all layers of both sets, and against unrelated ones.

    The first is None in the raw view and of fewer than six layers, which do not tell what
    all layers share.

    Args:
        gram: inner products of both sets.
        view: that they are of.
        metric: an id of `lens.layers.similarity.LAYER_METRICS`.
        draws: of unrelated layers.
        seed: of both.
    """
    few = rotation_draws("cka", 1, gram.n_experts, draws)
    unrelated = layer_null(gram, metric, draws=few, seed=seed)
    if view != "canonical" or gram.n_layers < FEWEST_LAYERS:
        return None, unrelated
    return shared_null(without_shared(gram), metric, seed=seed), unrelated


@dataclass(frozen=True, eq=False)
class MatchedPairs:
    """Matched experts of pairs of layers, beside those of layers whose experts are mixed.

    Attributes:
        partner: the expert of B that each expert of A is matched with.
        cosine: of each match.
        p: share of matched cosines of mixed experts at least as large; the larger of both
            ways of mixing.
        typical: mean matched cosine of mixed experts, over all pairs.
        draws: of all experts of a pair, in each way of mixing.
    """

    partner: Int[np.ndarray, "pair expert"]
    cosine: Float[np.ndarray, "pair expert"]
    p: Float[np.ndarray, "pair expert"]
    typical: float
    draws: int


def matched_pairs(
    gram: RouterGram, pairs: Int[np.ndarray, "pair 2"], draws: int, seed: int
) -> MatchedPairs:
    """The matches of pairs of layers against experts mixed within each layer, matched anew.

    The tail is fitted to Fisher's z of the cosines, which falls off exponentially even
    where experts span a few dimensions only.

    Args:
        gram: inner products of both sets.
        pairs: rows of the layers that are compared.
        draws: of each pair; no more than give 2,400 matched cosines.
        seed: of the draws.
    """
    n_experts = gram.n_experts
    draws = max(19, min(draws, -(-MATCHED_VALUES // n_experts)))
    mixings = expert_mixings(gram.n_layers, n_experts, draws, seed)
    shape = (len(pairs), n_experts)
    partner, cosine, p = np.empty(shape, np.int64), np.empty(shape), np.zeros(shape)
    levels = []
    for pair, (row, other) in enumerate(pairs.tolist()):
        partner[pair], cosine[pair] = assign(gram.cosine_pair(row, other))
        for even in (False, True):
            drawn = mixed_matches(gram, row, other, mixings, even_lengths=even)
            against = pooled_tail_p(_fisher(cosine[pair]), _fisher(drawn.ravel()))
            p[pair] = np.maximum(p[pair], against)
            levels.append(drawn.mean())
    return MatchedPairs(partner, cosine, p, float(np.mean(levels)), draws)


def _fisher(cosines: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(cosines, -1 + 1e-9, 1 - 1e-9))


@dataclass(frozen=True)
class BreadthNull:
    """Largest change of selection probability between sets of equal experts.

    Attributes:
        low, high: ends of its middle 95 %.
        null: what was drawn: of the two kinds of equal experts the one that changes more.
    """

    low: float
    high: float
    null: Null


def breadth_null(
    sets: tuple[RouterSet, RouterSet],
    grams: tuple[RouterGram, RouterGram],
    pairs: Int[np.ndarray, "pair 2"],
    seed: int,
) -> BreadthNull | None:
    """The largest change between as many pairs of layers whose experts are equal.

    None where weights do not decide the breadth: with biases, or when all experts or half of
    them are selected.

    Args:
        sets: A and B.
        grams: their inner products, canonical.
        pairs: rows of the layers that are compared.
        seed: of the draws.
    """
    (a, b), n_experts, n_pairs = sets, sets[0].n_experts, len(pairs)
    top_k = a.top_k
    biased = a.logit_biases is not None or b.logit_biases is not None
    if biased or b.top_k != top_k or top_k == n_experts or 2 * top_k == n_experts:
        return None
    enough = CHANGES if n_experts <= MANY_EXPERTS else CHANGES_OF_MANY
    draws = max(-(-enough // n_pairs), 2)
    equal = [
        equal_experts(routers, gram, draws=draws, mixed=enough, seed=seed + i)
        for i, (routers, gram) in enumerate(zip(sets, grams, strict=True))
    ]

    def largest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        shares = [
            selected_share(own.reshape(-1, n_experts, n_experts), top_k, batches=1)[0]
            for own in (first, second)
        ]
        return np.abs(shares[1] - shares[0]).max(axis=1)

    dealt = largest(*(e.dealt[:, pairs[:, i]] for i, e in enumerate(equal))).reshape(-1, n_pairs)
    mixed = largest(equal[0].mixed, equal[1].mixed)
    rng = np.random.default_rng(seed)
    picked = dealt[rng.integers(len(dealt), size=(SETS, n_pairs)), np.arange(n_pairs)]
    both = {DEALT: picked, MIXTURES: rng.choice(mixed, (SETS, n_pairs))}
    bands = []
    for null, drawn in both.items():
        low, high = np.quantile(drawn.max(axis=1), [0.025, 0.975])
        bands.append(BreadthNull(float(low), float(high), null))
    return max(bands, key=lambda band: band.high)
