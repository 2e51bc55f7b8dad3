"""Two router sets side by side: which layers and experts changed, matched, with nulls.

Axes: layer (of A or of B), expert (E), pair (a layer of A with one of B).

Directions can only be compared in one residual stream, between sets of the same width and
the same number of experts: two checkpoints of one training, or a model and its fine-tune.
What the layers of a set have in common with each other can always be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.experts.selection import breadth
from lens.layers.bootstrap import pair_interval
from lens.layers.draws import DRAWS, SEED, bootstrap_draws
from lens.layers.pair_null import LayerNull
from lens.layers.similarity import check_metric, layer_similarity
from lens.model_pairs.depth_profiles import correlations, same_depth
from lens.model_pairs.nulls import BreadthNull, breadth_null, layer_nulls, matched_pairs
from lens.routers.effective_dimension import unbiased_dimension
from lens.routers.gram import RouterGram, gram_of_columns, router_gram
from lens.routers.router_set import RouterSet
from lens.stats.draws import check_draws
from lens.stats.p_values import benjamini_hochberg, monte_carlo_p

# A cosine this close to 1 is the same direction to float32's rounding.
SAME = 1e-5
# Similarities of layers this close are the same to float32's rounding.
SAME_STRUCTURE = 1e-4
LEVEL = 0.05
MIN_STRUCTURE = 4
# A layer more like its counterpart than unrelated ones, but not than any two layers are.
SHARED_ONLY = "shared directions only"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Layers of A beside layers of B, in one residual stream.

    Attributes:
        metric: id of the similarity of layers.
        pairs: rows (of A, of B) of the layers that have the same number, in order.
        similarity: of those pairs.
        low, high: 95 % bootstrap interval of it over coordinates.
        z, p, q: against layers mixed from all layers of both sets, which share what all
            layers share; in the raw view and of very few layers against unrelated ones. q
            over the pairs.
        unrelated_q: against both layers turned at random, the absolute zero.
        null: what was drawn for p, in words.
        unrelated_draws: how often layers were turned.
        partner: the expert of B that each expert of A is matched with.
        cosine: of each match.
        expert_p, expert_q: of each match, against experts mixed within their layers and
            matched anew in every draw; q over all.
        mixed_cosine: mean cosine of a match of mixed experts.
        norm_ratio: length of B's column over that of A's.
        breadth_change: selection probability in B less that in A.
        breadth_null: the largest change between as many pairs of layers of equal experts;
            None in the raw view and where weights do not decide the breadth.
        relabelled: whether some expert's match has another index.
        same: whether all matches are the same direction to rounding.
        all_similarity: of every layer of A with every layer of B.
        all_q: their q-values, over all pairs.
        alignment: the layer of B that each layer of A corresponds to under the
            assignment with the largest total similarity; -1 for none.
        seed: of the nulls.
        expert_draws: of those of experts, each of all experts of a layer.
        bootstrap_draws: of the intervals.
    """

    metric: str
    pairs: Int[np.ndarray, "pair 2"]
    similarity: Float[np.ndarray, " pair"]
    low: Float[np.ndarray, " pair"]
    high: Float[np.ndarray, " pair"]
    z: Float[np.ndarray, " pair"]
    p: Float[np.ndarray, " pair"]
    q: Float[np.ndarray, " pair"]
    unrelated_q: Float[np.ndarray, " pair"]
    null: str
    unrelated_draws: int
    partner: Int[np.ndarray, "pair expert"]
    cosine: Float[np.ndarray, "pair expert"]
    expert_p: Float[np.ndarray, "pair expert"]
    expert_q: Float[np.ndarray, "pair expert"]
    mixed_cosine: float
    norm_ratio: Float[np.ndarray, "pair expert"]
    breadth_change: Float[np.ndarray, "pair expert"]
    breadth_null: BreadthNull | None
    relabelled: Bool[np.ndarray, " pair"]
    same: Bool[np.ndarray, " pair"]
    all_similarity: Float[np.ndarray, "layer other"]
    all_q: Float[np.ndarray, "layer other"]
    alignment: Int[np.ndarray, " layer"]
    seed: int
    expert_draws: int
    bootstrap_draws: int

    @property
    def angle(self) -> Float[np.ndarray, "pair expert"]:
        """Between the directions of matched experts, in degrees."""
        return np.degrees(np.arccos(np.clip(self.cosine, -1, 1)))

    def verdict(self, pair: int) -> str:
        """Verdict on a layer, in a word or two.

        "Unrelated" is said below the absolute zero alone: no more like its counterpart than
        two layers in unrelated directions.
        """
        if self.same[pair]:
            return "relabelled" if self.relabelled[pair] else "unchanged"
        if self.unrelated_q[pair] > LEVEL:
            return "unrelated"
        if self.q[pair] > LEVEL:
            return SHARED_ONLY
        return "changed, relabelled" if self.relabelled[pair] else "changed"


@dataclass(frozen=True)
class Structure:
    """Similarities between the layers of each set, compared over depth.

    Attributes:
        correlation: of the CKA matrices' entries, layers paired by relative depth.
        p: share of random pairings of the layers that correlate at least as well (Mantel).
        n_layers: layers compared; fewer than 4 cannot be.
        same: whether both sets have as many layers, and all similarities between them and
            all layers' own spectra (up to scale) are the same to rounding.
        dimensions: effective dimension of A and of B, from pairs of different layers (not a
            number of a single one), and their width.
        draws, seed: of the pairings.
    """

    correlation: float
    p: float
    n_layers: int
    same: bool
    dimensions: tuple[tuple[float, int], tuple[float, int]]
    draws: int
    seed: int


def why_not_directions(a: RouterSet, b: RouterSet) -> str | None:
    """Why the directions of two sets cannot be compared; None if they can."""
    if a.d_model != b.d_model:
        return f"the widths differ ({a.d_model:,} and {b.d_model:,})"
    if a.n_experts != b.n_experts:
        return f"the numbers of experts differ ({a.n_experts} and {b.n_experts})"
    if not set(a.layer_ids.tolist()) & set(b.layer_ids.tolist()):
        return "no layer has a number that both have"
    return None


def compare_routers(
    a: RouterSet,
    b: RouterSet,
    view: str = "canonical",
    metric: str = "cka",
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Comparison:
    """Every layer of A beside the layer of B with the same number, expert by expert.

    Experts are matched within each pair of layers, since labels may have been moved.
    Layers are set against mixtures of all layers of both sets and, the absolute zero,
    against layers turned at random; experts against experts mixed within their layers and
    matched anew. See `lens.model_pairs.nulls`.

    Reading it: a layer whose q is above 0.05 is no more like its counterpart than the
    directions that all layers share make any two. A match whose q is at most 0.05 is closer
    than what both layers read makes any two of their experts.

    The alignment pairs layers of A and B by the assignment with the largest total similarity,
    whatever their numbers: where layers were inserted it shows how the rest moved.

    Args:
        a: the first set.
        b: the second, of the same width and number of experts.
        view: "canonical" or "raw".
        metric: an id of `lens.layers.similarity.LAYER_METRICS`.
        draws: of each null; fewer where matching many experts takes long.
        seed: of the draws.

    Raises:
        LensError: the directions of the two sets cannot be compared.
    """
    _check_directions(a, b)
    check_draws(draws)
    check_metric(metric)
    columns = np.concatenate([a.columns(view), b.columns(view)])
    gram = gram_of_columns(columns)
    grams = (router_gram(a, view), router_gram(b, view))
    n_a, n_experts = a.n_layers, a.n_experts
    shared, unrelated = layer_nulls(gram, view, metric, draws, seed)
    null = shared or unrelated
    between = layer_similarity(gram, metric)[:n_a, n_a:]
    pairs = _pairs_by_number(a, b)
    rows, others = pairs[:, 0], pairs[:, 1] + n_a
    matches = matched_pairs(gram, np.stack([rows, others], axis=1), draws, seed)
    partner, cosine = matches.partner, matches.cosine
    resampled = bootstrap_draws(len(pairs), a.d_model, n_experts, draws)
    intervals = [
        pair_interval(columns, row, other, metric, draws=resampled, seed=seed)
        for row, other in zip(rows.tolist(), others.tolist(), strict=True)
    ]
    p = null.p[rows, others]
    return Comparison(
        pairs=pairs,
        metric=metric,
        similarity=between[rows, pairs[:, 1]],
        low=np.array([interval.low for interval in intervals]),
        high=np.array([interval.high for interval in intervals]),
        z=null.z[rows, others],
        p=p,
        q=benjamini_hochberg(p),
        unrelated_q=benjamini_hochberg(unrelated.p[rows, others]),
        null=_words(shared),
        unrelated_draws=unrelated.draws,
        partner=partner,
        cosine=cosine,
        expert_p=matches.p,
        expert_q=benjamini_hochberg(matches.p),
        mixed_cosine=matches.typical,
        norm_ratio=np.take_along_axis(gram.norms[others], partner, axis=1) / gram.norms[rows],
        breadth_change=_breadth_change((a, b), grams, pairs, partner),
        breadth_null=breadth_null((a, b), grams, pairs, seed) if view == "canonical" else None,
        relabelled=(partner != np.arange(n_experts)).any(axis=1),
        same=cosine.min(axis=1) >= 1 - SAME,
        all_similarity=between,
        all_q=benjamini_hochberg(null.p[:n_a, n_a:]),
        alignment=_alignment(between),
        seed=seed,
        expert_draws=matches.draws,
        bootstrap_draws=resampled,
    )


def _check_directions(a: RouterSet, b: RouterSet) -> None:
    reason = why_not_directions(a, b)
    if reason is not None:
        raise LensError(
            f"Directions cannot be compared: {reason}. Compare the structure of the layers instead."
        )


def _words(shared: LayerNull | None) -> str:
    """What layers are set against, after "more like its counterpart than"."""
    if shared is None:
        return "layers turned at random"
    return f"mixtures of all layers of both ({shared.method})"


def _pairs_by_number(a: RouterSet, b: RouterSet) -> Int[np.ndarray, "pair 2"]:
    """Rows of the layers that have the same number in both sets, in the order of A."""
    row_of = {int(number): row for row, number in enumerate(b.layer_ids)}
    return np.array(
        [
            (row, row_of[int(number)])
            for row, number in enumerate(a.layer_ids)
            if int(number) in row_of
        ]
    )


def _breadth_change(
    sets: tuple[RouterSet, RouterSet],
    grams: tuple[RouterGram, RouterGram],
    pairs: np.ndarray,
    partner: np.ndarray,
) -> Float[np.ndarray, "pair expert"]:
    """Selection probability of each match in B less that of the expert in A."""
    before, after = (
        breadth(gram, routers.top_k, biases=routers.logit_biases).probability
        for routers, gram in zip(sets, grams, strict=True)
    )
    return np.take_along_axis(after[pairs[:, 1]], partner, axis=1) - before[pairs[:, 0]]


def _alignment(similarity: Float[np.ndarray, "layer other"]) -> Int[np.ndarray, " layer"]:
    from scipy.optimize import linear_sum_assignment

    rows, others = linear_sum_assignment(similarity, maximize=True)
    found = np.full(len(similarity), -1)
    found[rows] = others
    return found


def compare_structure(
    a: RouterSet, b: RouterSet, view: str = "canonical", *, draws: int = DRAWS, seed: int = SEED
) -> Structure:
    """Correlation of the CKA matrices of two sets over depth, whatever their widths.

    The CKA matrices of both sets are set side by side, the layers paired by relative
    depth, and their entries correlated (Pearson; representational similarity analysis).
    The null pairs the layers at random (Mantel's test). Unchanged by rotations of
    either residual stream. Reading it: 1 is the same structure; p says whether it is
    more than chance, which smooth change with depth alone already makes it.

    Args:
        a, b: the sets.
        view: "canonical" or "raw".
        draws: random pairings.
        seed: of the pairings.
    """
    check_draws(draws)
    grams = [router_gram(routers, view) for routers in (a, b)]
    matrices = [layer_similarity(gram, "cka") for gram in grams]
    dimensions = [
        (unbiased_dimension(gram) if gram.n_layers > 1 else float("nan"), gram.d_model)
        for gram in grams
    ]
    n = min(len(matrix) for matrix in matrices)
    correlation = p = float("nan")
    if n >= MIN_STRUCTURE:
        depth = [same_depth(len(m), n) for m in matrices]
        first, second = (m[np.ix_(d, d)] for m, d in zip(matrices, depth, strict=True))
        upper = np.triu_indices(n, 1)
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
        drawn = second[orders[:, upper[0]], orders[:, upper[1]]]
        null = correlations(first[upper], drawn)
        correlation = float(correlations(first[upper], second[upper][None])[0])
        p = float(monte_carlo_p(correlation, null))
    same = _same_structure(grams, matrices)
    return Structure(correlation, p, n, same, (dimensions[0], dimensions[1]), draws, seed)


def _same_structure(grams: list[RouterGram], matrices: list[np.ndarray]) -> bool:
    if len(matrices[0]) != len(matrices[1]) or len(matrices[0]) < 2:
        return False
    if grams[0].n_experts != grams[1].n_experts:
        return False
    spectra = [np.linalg.eigvalsh(gram.own) for gram in grams]
    first, second = (values / values.sum(axis=1, keepdims=True) for values in spectra)
    return bool(
        np.allclose(matrices[0], matrices[1], rtol=0, atol=SAME_STRUCTURE)
        and np.allclose(first, second, rtol=0, atol=SAME_STRUCTURE)
    )
