"""Similarity of layers, from one Gram matrix.

Axes: layer (L), expert (E), pair. Nothing here touches d_model again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.routers.gram import RouterGram
from lens.routers.matching import check_layer, match_layers, mean_matched

Blocks = Float[np.ndarray, "*batch expert expert"]
Values = Float[np.ndarray, "*batch"]

# Eigenvalues of a layer's own block below this share of the largest are rounding.
RANK_TOLERANCE = 1e-5


@dataclass(frozen=True)
class LayerMetric:
    """One way to say how alike two layers are, and how to read it.

    Attributes:
        id: name in links and in code.
        label: name for people.
        formula: as plain text.
        reading: what a value means, what leaves it unchanged, where chance lies.
        domain: smallest and largest value; the same for every data set.
        diverging: whether 0 separates two kinds of likeness.
    """

    id: str
    label: str
    formula: str
    reading: str
    domain: tuple[float, float]
    diverging: bool


LAYER_METRICS: dict[str, LayerMetric] = {
    metric.id: metric
    for metric in (
        LayerMetric(
            "cka",
            "CKA",
            "‖AᵀB‖²_F / (‖AᵀA‖_F ‖BᵀB‖_F)",
            "1: the two routers read the same directions with the same weights, however their "
            "experts are labelled; 0: nothing in common. Unchanged by relabelling experts, by a "
            "scale per layer and by rotations of the residual stream. Unrelated layers sit near "
            "E / d.",
            (0.0, 1.0),
            False,
        ),
        LayerMetric(
            "matched_cosine",
            "Matched cosine",
            "max over relabellings π of mean_k cos(a_k, b_π(k))",
            "Mean cosine after each expert is paired with its best counterpart. Unchanged by "
            "relabelling and by the length of any column. Chance is a little above 0, because the "
            "best pairing is chosen among many.",
            (-1.0, 1.0),
            True,
        ),
        LayerMetric(
            "principal_angles",
            "Principal angles",
            "‖Q_aᵀ Q_b‖²_F / rank",
            "Share of the subspace of directions that both routers read, whatever weight they give "
            "them: 1 the same subspace, 0 orthogonal. Unchanged by relabelling and by any "
            "invertible mix of a layer's experts. Unrelated layers sit at rank / d.",
            (0.0, 1.0),
            False,
        ),
        LayerMetric(
            "cosine",
            "Cosine (classic)",
            "⟨A, B⟩ / (‖A‖ ‖B‖)",
            "Cosine of the flattened routers: compares expert k with expert k, though labels mean "
            "nothing across layers. Chance is 0.",
            (-1.0, 1.0),
            True,
        ),
        LayerMetric(
            "correlation",
            "Correlation (classic)",
            "Pearson r of all weights of A and B",
            "Like the flattened cosine with the mean weight removed; depends on the labels of the "
            "experts. Chance is 0.",
            (-1.0, 1.0),
            True,
        ),
        LayerMetric(
            "euclidean",
            "Euclidean (classic)",
            "1 / (1 + ‖A − B‖)",
            "1: the same weights; depends on the labels of the experts and on the scale of the "
            "weights, so compare its values only within one router set.",
            (0.0, 1.0),
            False,
        ),
    )
}


def check_metric(metric: str) -> str:
    """A metric's id as given, or an error that lists the ids there are."""
    if metric not in LAYER_METRICS:
        raise LensError(
            f"metric: found {str(metric)[:40]!r}; expected one of {', '.join(LAYER_METRICS)}."
        )
    return metric


def _trace(blocks: Blocks) -> Values:
    return np.einsum("...ee->...", blocks)


def _whitener(own: Blocks) -> Float[np.ndarray, "*batch expert expert"]:
    """R with R·own·R the projection onto the columns' span: a pseudo-inverse square root."""
    values, vectors = np.linalg.eigh(own)
    kept = values > RANK_TOLERANCE * values[..., -1:]
    root = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    return np.einsum("...ik,...k,...jk->...ij", vectors, root, vectors)


def _rank(own: Blocks) -> Values:
    values = np.linalg.eigvalsh(own)
    return (values > RANK_TOLERANCE * values[..., -1:]).sum(axis=-1)


# Each metric: what it needs to know of one layer, and how two layers then compare.
# `shift` is the sum of all weights of a layer over the root of their number.
Prepare = Callable[[Blocks, Values], tuple[np.ndarray, ...]]
Compare = Callable[[tuple[np.ndarray, ...], tuple[np.ndarray, ...], Blocks], Values]


def _compare_cka(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], cross: Blocks) -> Values:
    return np.einsum("...ij,...ij->...", cross, cross) / (a[0] * b[0])


def _compare_matched(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], cross: Blocks) -> Values:
    return mean_matched(cross * a[0][..., :, None] * b[0][..., None, :])


def _compare_angles(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], cross: Blocks) -> Values:
    overlap = a[0] @ cross @ b[0]
    return np.einsum("...ij,...ij->...", overlap, overlap) / np.minimum(a[1], b[1])


def _compare_flat(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], cross: Blocks) -> Values:
    return (_trace(cross) - a[1] * b[1]) / (a[0] * b[0])


def _compare_euclid(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], cross: Blocks) -> Values:
    return 1 / (1 + np.sqrt(np.maximum(a[0] + b[0] - 2 * _trace(cross), 0)))


_METRICS: dict[str, tuple[Prepare, Compare]] = {
    "cka": (lambda own, shift: (np.sqrt(np.einsum("...ij,...ij->...", own, own)),), _compare_cka),
    "matched_cosine": (
        lambda own, shift: (1 / np.sqrt(np.einsum("...ee->...e", own)),),
        _compare_matched,
    ),
    "principal_angles": (lambda own, shift: (_whitener(own), _rank(own)), _compare_angles),
    "cosine": (lambda own, shift: (np.sqrt(_trace(own)), np.zeros_like(shift)), _compare_flat),
    "correlation": (lambda own, shift: (np.sqrt(_trace(own) - shift**2), shift), _compare_flat),
    "euclidean": (lambda own, shift: (_trace(own),), _compare_euclid),
}


def pair_similarity(metric: str, own_a: Blocks, own_b: Blocks, cross: Blocks) -> Values:
    """Likeness of pairs of layers given only their blocks of inner products.

    For draws from a null, where no router set exists. The sum of all weights
    counts as 0, as it is in the canonical view.
    """
    prepare, compare = _METRICS[check_metric(metric)]
    shift = np.zeros(own_a.shape[:-2])
    return compare(prepare(own_a, shift), prepare(own_b, shift), cross)


def layer_similarity(gram: RouterGram, metric: str = "cka") -> Float[np.ndarray, "layer layer"]:
    """Similarity of every layer with every other.

    Which of the choices leave it unchanged, and where chance lies, is said in
    `LAYER_METRICS[metric].reading`.

    Args:
        gram: all inner products, of the view to be compared.
        metric: an id of `LAYER_METRICS`.

    Returns:
        A symmetric matrix with ones on the diagonal.

    Raises:
        LensError: there is no such metric.
    """
    prepare, compare = _METRICS[check_metric(metric)]
    if metric == "cka":
        size = np.sqrt(np.diagonal(gram.overlaps))
        similarity = np.clip(gram.overlaps / (size[:, None] * size), 0, 1)
        np.fill_diagonal(similarity, 1)
        return similarity
    if metric == "principal_angles" and gram.held is None:
        return _shared_subspaces(gram)
    if metric in ("cosine", "correlation", "euclidean") and gram.held is None:
        return _flat_similarity(gram, metric)
    shift = gram.sums.sum(axis=1) / np.sqrt(gram.d_model * gram.n_experts)
    known = prepare(gram.own, shift)
    similarity = np.ones((gram.n_layers, gram.n_layers))
    for a in range(gram.n_layers - 1):
        rest = slice(a + 1, None)
        values = compare(
            tuple(part[a] for part in known),
            tuple(part[rest] for part in known),
            gram.row(a, a + 1).transpose(1, 0, 2),
        )
        similarity[a, rest] = similarity[rest, a] = values
    low, high = LAYER_METRICS[metric].domain
    return np.clip(similarity, low, high)


def _flat_similarity(gram: RouterGram, metric: str) -> Float[np.ndarray, "layer layer"]:
    """The label-dependent metrics of many columns: they need one inner product a pair of layers."""
    assert gram.columns is not None and gram.scale is not None
    flat = gram.columns.reshape(gram.n_layers, -1)
    inner = (flat @ flat.T).astype(np.float64) * gram.scale[:, None] * gram.scale
    squares = _trace(gram.own)
    if metric == "euclidean":
        distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * inner, 0))
        similarity = 1 / (1 + distance)
    else:
        shift = np.zeros(gram.n_layers)
        if metric == "correlation":
            shift = gram.sums.sum(axis=1) / np.sqrt(gram.d_model * gram.n_experts)
        unit = np.sqrt(squares - shift**2)
        similarity = np.clip((inner - shift[:, None] * shift) / (unit[:, None] * unit), -1, 1)
    np.fill_diagonal(similarity, 1)
    return (similarity + similarity.T) / 2


def _shared_subspaces(gram: RouterGram) -> Float[np.ndarray, "layer layer"]:
    """Principal angles of many columns: orthonormal columns once, then one product a layer."""
    assert gram.columns is not None and gram.scale is not None
    rank = _rank(gram.own)
    whiten = _whitener(gram.own) * gram.scale[:, None, None]
    frames = whiten.astype(np.float32) @ gram.columns  # [L, E, d], of rank E - 1
    unit = np.ones(gram.n_layers)
    turned = RouterGram(gram.own, gram.sums, gram.d_model, columns=frames, scale=unit)
    similarity = np.ones((gram.n_layers, gram.n_layers))
    for a in range(gram.n_layers - 1):
        rest = slice(a + 1, None)
        overlap = turned.row(a, a + 1)
        values = np.einsum("ibj,ibj->b", overlap, overlap) / np.minimum(rank[a], rank[rest])
        similarity[a, rest] = similarity[rest, a] = values
    return np.clip(similarity, 0, 1)


def layer_distances(gram: RouterGram, metric: str = "cka") -> Float[np.ndarray, "layer layer"]:
    """Distances between layers that go with a similarity.

    √(2 − 2·s), which for CKA and for the cosine is the Euclidean distance
    between unit vectors; for "euclidean" the distance itself.
    """
    return distances_of(layer_similarity(gram, metric), metric)


def distances_of(
    similarity: Float[np.ndarray, "layer layer"], metric: str
) -> Float[np.ndarray, "layer layer"]:
    """The distances of `layer_distances`, of similarities that are known already."""
    if metric == "euclidean":
        return 1 / similarity - 1
    return np.sqrt(np.maximum(2 - 2 * similarity, 0))


def most_alike(similarity: Float[np.ndarray, "layer layer"]) -> tuple[int, int]:
    """The two layers, by row, that are most alike; the first two of equal pairs."""
    a, b = np.triu_indices(len(similarity), 1)
    best = int(np.argmax(similarity[a, b]))
    return int(a[best]), int(b[best])


@dataclass(frozen=True)
class AdjacentLayers:
    """Each layer beside the next.

    Attributes:
        pairs: rows of the two layers.
        similarity: by the metric asked for.
        change_l2: Frobenius norm of the difference of their columns, expert k
            against expert k.
        classic_transitions: whether the similarity differs from the pair before
            by more than twice the spread of such differences. In pure noise this
            rule marks about 4.6 % of the pairs, 2.8 of 62: it is no test.
        non_adjacent_mean: mean similarity of all pairs that are not neighbours;
            not a number with fewer than 3 layers.
    """

    pairs: Int[np.ndarray, "pair 2"]
    similarity: Float[np.ndarray, " pair"]
    change_l2: Float[np.ndarray, " pair"]
    classic_transitions: Bool[np.ndarray, " pair"]
    non_adjacent_mean: float


def adjacent_layers(gram: RouterGram, metric: str = "cka") -> AdjacentLayers:
    """Similarity of neighbouring layers, beside all other pairs of layers."""
    n = gram.n_layers
    similarity = layer_similarity(gram, metric)
    neighbours = np.diagonal(similarity, 1).copy()
    change = np.diff(neighbours)
    marked = np.zeros(len(neighbours), bool)
    if len(change) > 1:
        marked[1:] = np.abs(change) > 2 * change.std()
    squares = _trace(gram.own)
    first, second = np.arange(n - 1), np.arange(1, n)
    cross = np.array([np.trace(gram.pair(layer, layer + 1)) for layer in range(n - 1)])
    distance = np.sqrt(np.maximum(squares[:-1] + squares[1:] - 2 * cross, 0))
    others = similarity[np.triu_indices(n, 2)]
    return AdjacentLayers(
        pairs=np.stack([first, second], axis=1),
        similarity=neighbours,
        change_l2=distance,
        classic_transitions=marked,
        non_adjacent_mean=float(others.mean()) if others.size else float("nan"),
    )


@dataclass(frozen=True)
class LayerPair:
    """Two layers, expert by expert.

    Attributes:
        a: row of the first layer.
        b: row of the second.
        cosines: expert of a against expert of b.
        partner: b's expert that each expert of a is matched with.
        matched: cosine of each match.
        angles: cosines of the principal angles between the spans of the two
            routers, largest first: n_experts - 1 of them in the canonical view.
            Each lies between 0 (orthogonal) and 1 (a shared direction).
        cka: CKA of the two layers.
    """

    a: int
    b: int
    cosines: Float[np.ndarray, "expert expert"]
    partner: Int[np.ndarray, " expert"]
    matched: Float[np.ndarray, " expert"]
    angles: Float[np.ndarray, " angle"]
    cka: float


def layer_pair(gram: RouterGram, a: int, b: int) -> LayerPair:
    """Everything about two layers that one cell of the similarity matrix sums up."""
    a, b = check_layer(gram, a), check_layer(gram, b)
    own_a, own_b, cross = gram.own[a], gram.own[b], gram.pair(a, b)
    partner, matched = match_layers(gram, a, b)
    overlap = _whitener(own_a) @ cross @ _whitener(own_b)
    rank = int(min(_rank(own_a), _rank(own_b)))
    angles = np.clip(np.linalg.svd(overlap, compute_uv=False)[:rank], 0, 1)
    return LayerPair(
        a=a,
        b=b,
        cosines=gram.cosine_pair(a, b),
        partner=partner,
        matched=matched,
        angles=angles,
        cka=float(np.clip(pair_similarity("cka", own_a, own_b, cross), 0, 1)),
    )
