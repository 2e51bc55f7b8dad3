"""Some experts longer, or broader, than equal experts would be.

Axes: draw, layer (L), expert (E).

Two nulls, each of which keeps something that the other loses. Weights dealt to other
experts (`lens.routers.exchanged_coordinates`) keep what is large in a layer, coordinate
by coordinate, and are too narrow where coordinates move together. Experts mixed from all
layers (`lens.routers.layer_mixtures`) keep the covariance that all layers share, whatever
it is, and are too narrow where layers have scales of their own or weights heavy tails. A
p-value is the larger of the two, and says which it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from lens.experts.selection import selected_share
from lens.routers.exchanged_coordinates import exchange_moments, exchanged_grams
from lens.routers.gram import RouterGram
from lens.routers.layer_mixtures import mixture_grams, shared_spectrum
from lens.routers.router_set import RouterSet
from lens.stats.exponential_tail import exponential_tail_p, pooled_tail_p
from lens.stats.p_values import SMALLEST, benjamini_hochberg
from lens.words import p_value_text, significant

DRAWS = 199
MOST_DRAWS_OF_MANY = 19
SEED = 0
# Layers of a draw whose breadth is computed: those with the longest column in their layer.
LONGEST = 2
# Layers mixed from all layers, of few experts and of many.
MIXED = 500
MIXED_MANY = 50
MANY_EXPERTS = 16
LEVEL = 0.05  # false discovery rate

Null = Literal["weights dealt to other experts", "experts mixed from all layers"]
DEALT: Null = "weights dealt to other experts"
MIXTURES: Null = "experts mixed from all layers"


@dataclass(frozen=True, eq=False)
class Largest:
    """The largest value of any expert, beside that of as many equal experts.

    Attributes:
        value: of the longest or broadest expert.
        layer, expert: which it is.
        p: the larger of the two p-values.
        null: what was drawn for that p-value.
        drawn: largest value of each draw of that null.
        p_dealt, p_mixed: by each null.
    """

    value: float
    layer: int
    expert: int
    p: float
    null: Null
    drawn: Float[np.ndarray, " draw"]
    p_dealt: float
    p_mixed: float


@dataclass(frozen=True, eq=False)
class ExpertInequality:
    """Every expert beside equal experts of its layer.

    Attributes:
        value: of each expert.
        p: the larger of the p-values by both nulls: share of equal experts at least as large.
        q: the same, adjusted for all experts being looked at (Benjamini–Hochberg).
        dealt: whether p is that of weights dealt to other experts; else that of experts
            mixed from all layers.
        high: 95 % quantile of equal experts of each layer, by the null that gives more.
    """

    value: Float[np.ndarray, "layer expert"]
    p: Float[np.ndarray, "layer expert"]
    q: Float[np.ndarray, "layer expert"]
    dealt: Bool[np.ndarray, "layer expert"]
    high: Float[np.ndarray, " layer"]


@dataclass(frozen=True, eq=False)
class EqualExperts:
    """What equal experts look like, drawn in both ways.

    Attributes:
        dealt: inner products of the set with its weights dealt to other experts.
        mixed: those of layers mixed from all layers.
        seed: of the random numbers.
    """

    dealt: Float[np.ndarray, "draw layer expert expert"]
    mixed: Float[np.ndarray, "draw expert expert"]
    seed: int


def equal_experts(
    routers: RouterSet,
    gram: RouterGram,
    *,
    draws: int = DRAWS,
    mixed: int | None = None,
    seed: int = SEED,
) -> EqualExperts:
    """Draws of both nulls for one set.

    Args:
        routers: the set.
        gram: its inner products, canonical.
        draws: sets whose weights are dealt; fewer of many experts, whose draws say more.
        mixed: layers mixed from all layers; 500 by default, 50 of more than 16 experts.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    many = gram.n_experts > MANY_EXPERTS
    n_dealt = min(draws, MOST_DRAWS_OF_MANY) if many else draws
    n_mixed = mixed or (MIXED_MANY if many else MIXED)
    dealt = exchanged_grams(exchange_moments(routers.columns()), n_dealt, rng)
    spectrum = shared_spectrum(gram, seed=seed)
    return EqualExperts(dealt, mixture_grams(spectrum, gram.n_experts, n_mixed, rng), seed)


def length_shares(grams: Float[np.ndarray, "*batch expert expert"]) -> np.ndarray:
    """Squared length of every column, as a part of all of its layer: 1 / E in balance."""
    squares = np.einsum("...ee->...e", grams)
    return squares / squares.sum(axis=-1, keepdims=True)


def longest_expert(gram: RouterGram, equal: EqualExperts) -> Largest:
    """The expert whose column has the largest part of its layer's squared length.

    Args:
        gram: inner products of the set, canonical.
        equal: draws of the nulls, from `equal_experts`.
    """
    dealt = length_shares(equal.dealt).max(axis=(1, 2))
    mixed = length_shares(equal.mixed).max(axis=1)
    return _largest(length_shares(gram.own), dealt, mixed, equal.seed)


def longest_in_words(longest: Largest, lengths: ExpertInequality, name: str) -> str:
    """Whether experts are longer than their equals: one by one, and the longest of all.

    Args:
        longest: from `longest_expert`.
        lengths: from `expert_lengths`.
        name: of the longest expert.
    """
    count = int((lengths.q <= LEVEL).sum())
    low, high = (float(edge) for edge in np.quantile(longest.drawn, [0.025, 0.975]))
    return (
        f"{count:,} of {lengths.q.size:,} experts are longer than equal experts of their layer at "
        f"a false discovery rate of 5 %. The longest, {name}, has {significant(longest.value)} of "
        f"its layer's squared length; the longest of as many equal experts ({longest.null}) "
        f"{significant(low)} to {significant(high)} (p {p_value_text(longest.p)})."
    )


def broadest_expert(
    gram: RouterGram,
    top_k: int,
    equal: EqualExperts,
    biases: Float[np.ndarray, "layer expert"] | None = None,
) -> Largest:
    """The expert that is selected most often, under an isotropic prior.

    Looked for in the two layers whose longest column is longest within its layer, in the
    set and in every draw alike: to first order breadth depends on lengths alone, and
    hundreds of sets of many layers need not be sampled.

    Args:
        gram: inner products of the set, canonical.
        top_k: experts a token; not all, and not half of them, where weights decide nothing.
        equal: draws of the nulls, from `equal_experts`.
        biases: of the logits, where the set has some; then all its layers are looked at.
            Equal experts have none, so that a bias can make an expert broad.
    """
    if biases is not None:
        values = selected_share(gram.own, top_k, batches=1, biases=biases)[0]
    else:
        longest = np.argsort(-length_shares(gram.own).max(axis=1), kind="stable")[:LONGEST]
        values = np.full((gram.n_layers, gram.n_experts), -np.inf)
        values[longest] = _breadth(gram.own[longest], top_k)
    dealt = _broadest(equal.dealt, top_k)
    mixed = _breadth(equal.mixed, top_k).max(axis=1)
    return _largest(values, dealt, mixed, equal.seed)


def expert_lengths(gram: RouterGram, equal: EqualExperts) -> ExpertInequality:
    """Squared length of every expert's column, as a part of its layer's, beside equal experts.

    Args:
        gram: inner products of the set, canonical.
        equal: draws of the nulls, from `equal_experts`.
    """
    shares = length_shares(gram.own)
    drawn = length_shares(equal.dealt)  # [draw, L, E]
    dealt = drawn.transpose(0, 2, 1).reshape(-1, gram.n_layers)
    mixed = length_shares(equal.mixed).ravel()
    p_dealt = exponential_tail_p(shares, dealt[:, :, None])
    p_mixed = pooled_tail_p(shares, mixed)
    p = np.maximum(p_dealt, p_mixed)
    high = np.quantile(dealt, 0.95, axis=0)
    high_mixed = float(np.quantile(mixed, 0.95))
    return ExpertInequality(
        value=shares,
        p=p,
        q=benjamini_hochberg(p),
        dealt=p_dealt >= p_mixed,
        high=np.maximum(high, high_mixed),
    )


def _breadth(grams: Float[np.ndarray, "layer expert expert"], top_k: int) -> np.ndarray:
    return selected_share(grams, top_k, batches=1)[0]


def _broadest(
    grams: Float[np.ndarray, "draw layer expert expert"], top_k: int
) -> Float[np.ndarray, " draw"]:
    """Largest selection probability of every draw, in the layers with the longest columns."""
    draws, n_layers = grams.shape[:2]
    n_longest = min(LONGEST, n_layers)
    longest = np.argsort(-length_shares(grams).max(axis=2), axis=1, kind="stable")[:, :n_longest]
    picked = np.take_along_axis(grams, longest[:, :, None, None], axis=1)
    shares = _breadth(picked.reshape(-1, *grams.shape[2:]), top_k)
    return shares.reshape(draws, -1).max(axis=1)


def _largest(
    values: Float[np.ndarray, "layer expert"],
    dealt: Float[np.ndarray, " draw"],
    mixed: Float[np.ndarray, " draw"],
    seed: int,
) -> Largest:
    """The largest value beside largest ones of whole sets (dealt) and of single layers (mixed)."""
    layer, expert = (int(i) for i in np.unravel_index(np.argmax(values), values.shape))
    value = float(values[layer, expert])
    p_dealt, of_one = _p_of(value, dealt), _p_of(value, mixed)
    p_mixed = float(-np.expm1(len(values) * np.log1p(-min(of_one, 1 - 1e-12))))
    if p_dealt >= p_mixed:
        return Largest(value, layer, expert, p_dealt, DEALT, dealt, p_dealt, p_mixed)
    rng = np.random.default_rng(seed)
    sets = rng.choice(mixed, (len(dealt), len(values))).max(axis=1)
    return Largest(value, layer, expert, p_mixed, MIXTURES, sets, p_dealt, p_mixed)


def _p_of(value: float, drawn: Float[np.ndarray, " draw"]) -> float:
    """p of a value; draws that all agree, as with half of the experts chosen, have no tail."""
    if np.ptp(drawn) < 1e-9:
        return 1.0 if value <= drawn.max() + 1e-6 else SMALLEST
    return float(pooled_tail_p(np.array(value), drawn))
