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
from lens.gram import RouterGram, effective_dimension, gram_of_columns, router_gram
from lens.layer_null import DRAWS, SEED, affordable_draws, check_draws, layer_null
from lens.matching import assign
from lens.multiple import benjamini_hochberg, monte_carlo_p, tail_p
from lens.rotation import layer_corners, unrelated_cross
from lens.routers import RouterSet
from lens.selection import breadth
from lens.similarity import layer_similarity

# A cosine this close to 1 is the same direction to float32's rounding.
SAME = 1e-5
LEVEL = 0.05
MATCHED_VALUES = 4000  # drawn for each pair of layers, over its experts
MIN_STRUCTURE = 4


@dataclass(frozen=True, eq=False)
class Comparison:
    """Layers of A beside layers of B, in one residual stream.

    Attributes:
      pairs: rows (of A, of B) of the layers that have the same number, in order.
      cka: of those pairs.
      z, p, q: against both layers turned at random (rotation null); q over the pairs.
      partner: the expert of B that each expert of A is matched with.
      cosine: of each match.
      expert_p, expert_q: of each match, matched anew in every draw; q over all.
      norm_ratio: length of B's column over that of A's.
      breadth_change: selection probability in B less that in A.
      relabelled: whether some expert's match has another index.
      same: whether all matches are the same direction to rounding.
      all_cka: CKA of every layer of A with every layer of B.
      all_q: their q-values, over all pairs.
      alignment: the layer of B that each layer of A corresponds to under the
        assignment with the largest total CKA; -1 for none.
      draws, seed: of the nulls.
    """

    pairs: Int[np.ndarray, "pair 2"]
    cka: Float[np.ndarray, " pair"]
    z: Float[np.ndarray, " pair"]
    p: Float[np.ndarray, " pair"]
    q: Float[np.ndarray, " pair"]
    partner: Int[np.ndarray, "pair expert"]
    cosine: Float[np.ndarray, "pair expert"]
    expert_p: Float[np.ndarray, "pair expert"]
    expert_q: Float[np.ndarray, "pair expert"]
    norm_ratio: Float[np.ndarray, "pair expert"]
    breadth_change: Float[np.ndarray, "pair expert"]
    relabelled: Bool[np.ndarray, " pair"]
    same: Bool[np.ndarray, " pair"]
    all_cka: Float[np.ndarray, "layer other"]
    all_q: Float[np.ndarray, "layer other"]
    alignment: Int[np.ndarray, " layer"]
    draws: int
    seed: int

    def verdict(self, pair: int) -> str:
        """What became of a layer, in a word or two."""
        if self.same[pair]:
            return "relabelled" if self.relabelled[pair] else "unchanged"
        if self.q[pair] > LEVEL:
            return "unrelated"
        return "changed, relabelled" if self.relabelled[pair] else "changed"


@dataclass(frozen=True)
class Structure:
    """What the layers of each set have in common with each other, compared over depth.

    Attributes:
      correlation: of the CKA matrices' entries, layers paired by relative depth.
      p: share of random pairings of the layers that correlate at least as well (Mantel).
      n_layers: layers compared; fewer than 4 cannot be.
      dimensions: effective dimension of A and of B, and how many columns each has.
      draws, seed: of the pairings.
    """

    correlation: float
    p: float
    n_layers: int
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
    a: RouterSet, b: RouterSet, view: str = "canonical", *, draws: int = DRAWS, seed: int = SEED
) -> Comparison:
    """Every layer of A beside the layer of B with the same number, expert by expert.

    Experts are matched within each pair of layers, since labels may have been moved.
    The null turns both layers at random and, for experts, matches anew. A layer whose
    q is above 0.05 is no more like its counterpart than an unrelated one.

    The alignment pairs layers of A and B by the assignment with the largest total CKA,
    whatever their numbers: where layers were inserted it shows how the rest moved.

    Args:
      a: the first set.
      b: the second, of the same width and number of experts.
      view: "canonical" or "raw".
      draws: of each null; fewer where matching many experts takes long.
      seed: of the draws.

    Raises:
      LensError: the directions of the two sets cannot be compared.
    """
    reason = why_not_directions(a, b)
    if reason is not None:
        raise LensError(
            f"Directions cannot be compared: {reason}. Compare the structure of the layers instead."
        )
    check_draws(draws)
    columns = np.concatenate([a.columns(view), b.columns(view)])
    gram = gram_of_columns(columns)
    n_a, n_experts = a.n_layers, a.n_experts
    few = affordable_draws("cka", 1, n_experts, draws)
    null = layer_null(gram, "cka", draws=few, seed=seed)
    all_cka = layer_similarity(gram, "cka")[:n_a, n_a:]
    row_of = {int(number): row for row, number in enumerate(b.layer_ids)}
    pairs = np.array(
        [
            (row, row_of[int(number)])
            for row, number in enumerate(a.layer_ids)
            if int(number) in row_of
        ]
    )
    rows, others = pairs[:, 0], pairs[:, 1] + n_a
    partner, cosine, expert_p = _matches(gram, rows, others, draws, seed)
    norms = gram.norms
    broad = [
        breadth(router_gram(s, view), s.top_k, biases=s.logit_biases).probability for s in (a, b)
    ]
    p = null.p[rows, others]
    return Comparison(
        pairs=pairs,
        cka=all_cka[rows, pairs[:, 1]],
        z=null.z[rows, others],
        p=p,
        q=benjamini_hochberg(p),
        partner=partner,
        cosine=cosine,
        expert_p=expert_p,
        expert_q=benjamini_hochberg(expert_p),
        norm_ratio=np.take_along_axis(norms[others], partner, axis=1) / norms[rows],
        breadth_change=np.take_along_axis(broad[1][pairs[:, 1]], partner, axis=1) - broad[0][rows],
        relabelled=(partner != np.arange(n_experts)).any(axis=1),
        same=cosine.min(axis=1) >= 1 - SAME,
        all_cka=all_cka,
        all_q=benjamini_hochberg(null.p[:n_a, n_a:]),
        alignment=_alignment(all_cka),
        draws=few,
        seed=seed,
    )


def _matches(
    gram: RouterGram, rows: np.ndarray, others: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Partners, cosines and p-values of the experts of pairs of layers."""
    n_experts = gram.n_experts
    draws = max(19, min(draws, -(-MATCHED_VALUES // n_experts)))
    draws = affordable_draws("matched_cosine", len(rows), n_experts, draws)
    turns = layer_corners(gram, draws, np.random.default_rng(seed))
    shape = (len(rows), n_experts)
    partner, cosine, p = np.empty(shape, np.int64), np.empty(shape), np.empty(shape)
    for pair, (row, other) in enumerate(zip(rows.tolist(), others.tolist(), strict=True)):
        partner[pair], cosine[pair] = assign(gram.cosine_pair(row, other))
        cross = unrelated_cross(gram, row, other, turns)
        cross /= gram.norms[row][:, None] * gram.norms[other]
        null = np.sort(np.concatenate([assign(drawn)[1] for drawn in cross]))
        spread = float(null.std())
        skew = float(((null - null.mean()) ** 3).mean() / spread**3)
        reached = len(null) - np.searchsorted(null, cosine[pair] - 1e-12)
        p[pair] = tail_p((cosine[pair] - null.mean()) / spread, skew, reached, len(null))
    return partner, cosine, p


def _alignment(cka: Float[np.ndarray, "layer other"]) -> Int[np.ndarray, " layer"]:
    from scipy.optimize import linear_sum_assignment

    rows, others = linear_sum_assignment(cka, maximize=True)
    found = np.full(len(cka), -1)
    found[rows] = others
    return found


def compare_structure(
    a: RouterSet, b: RouterSet, view: str = "canonical", *, draws: int = DRAWS, seed: int = SEED
) -> Structure:
    """Whether the layers of two sets relate to each other alike, whatever their widths.

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
    sizes = [gram.n_layers * gram.n_experts for gram in grams]
    dimensions = [
        (effective_dimension(gram, cka), size)
        for gram, cka, size in zip(grams, matrices, sizes, strict=True)
    ]
    n = min(len(matrix) for matrix in matrices)
    correlation = p = float("nan")
    if n >= MIN_STRUCTURE:
        depth = [np.rint(np.linspace(0, len(m) - 1, n)).astype(int) for m in matrices]
        first, second = (m[np.ix_(d, d)] for m, d in zip(matrices, depth, strict=True))
        upper = np.triu_indices(n, 1)
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
        drawn = second[orders[:, upper[0]], orders[:, upper[1]]]
        null = _correlations(first[upper], drawn)
        correlation = float(_correlations(first[upper], second[upper][None])[0])
        p = float(monte_carlo_p(correlation, null))
    return Structure(correlation, p, n, (dimensions[0], dimensions[1]), draws, seed)


def _correlations(
    values: Float[np.ndarray, " entry"], rows: Float[np.ndarray, "draw entry"]
) -> Float[np.ndarray, " draw"]:
    first = values - values.mean()
    others = rows - rows.mean(axis=1, keepdims=True)
    size = np.sqrt((first @ first) * np.einsum("de,de->d", others, others))
    return (others @ first) / np.maximum(size, 1e-300)
