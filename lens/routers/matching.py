"""Which expert of one layer corresponds to which expert of another.

Expert labels carry no meaning across layers: permuting the experts of a layer
leaves the model the same. Experts are therefore paired by the assignment that
makes the sum of the cosines of their router columns largest, and followed from
layer to layer by such pairs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from lens.errors import LensError
from lens.routers.best_assignments import best_totals
from lens.routers.gram import RouterGram


def assign(
    cosines: Float[np.ndarray, "expert expert"],
) -> tuple[Int[np.ndarray, " expert"], Float[np.ndarray, " expert"]]:
    """The partner of each row under the assignment with the largest total, and its value."""
    rows, partner = linear_sum_assignment(cosines, maximize=True)
    return partner, cosines[rows, partner]


def assign_each(
    cosines: Float[np.ndarray, "draw expert expert"],
) -> Float[np.ndarray, "draw expert"]:
    """Each row's value under the best assignment, of one matrix after another; see `assign`."""
    partner = np.empty(cosines.shape[:-1], np.int64)
    for i, costs in enumerate(-cosines):
        partner[i] = linear_sum_assignment(costs)[1]
    return np.take_along_axis(cosines, partner[..., None], axis=-1)[..., 0]


# Up to so many experts the best assignment of many matrices is found for all at once.
SUBSET_EXPERTS = 10
CHUNK = 2048
MANY_MATRICES = 512  # below which one at a time is faster


def mean_matched(cosines: Float[np.ndarray, "*batch expert expert"]) -> Float[np.ndarray, "*batch"]:
    """Mean over experts of the cosine with the partner, for each matrix of a batch."""
    n_experts = cosines.shape[-1]
    flat = cosines.reshape(-1, n_experts, n_experts)
    if n_experts <= SUBSET_EXPERTS and len(flat) >= MANY_MATRICES:
        means = np.concatenate(
            [
                best_totals(np.ascontiguousarray(flat[i : i + CHUNK].transpose(1, 2, 0)))
                for i in range(0, len(flat), CHUNK)
            ]
        )
        means /= n_experts
    else:
        means = assign_each(flat).mean(axis=1, dtype=np.float64)
    return means.reshape(cosines.shape[:-2])


def check_layer(gram: RouterGram, layer: int) -> int:
    """A row of the layer axis as given, or an error that names the rows there are."""
    if not 0 <= layer < gram.n_layers:
        raise LensError(
            f"layer: row {layer} was asked for; expected 0 to {gram.n_layers - 1}. Choose a layer "
            "of this router set."
        )
    return int(layer)


def match_layers(
    gram: RouterGram, a: int, b: int
) -> tuple[Int[np.ndarray, " expert"], Float[np.ndarray, " expert"]]:
    """The expert of layer b that each expert of layer a corresponds to, and their cosine.

    Left unchanged, up to the labels themselves, by relabelling the experts of
    either layer. Reading it: 1 is the same direction. The best assignment of
    unrelated experts is above 0 as well: about 0.0175 on average at d = 6144
    with 8 experts; `lens.layers.chance_level.chance_level` gives it for any size.

    Args:
        gram: all inner products.
        a: row of the first layer.
        b: row of the second.

    Returns:
        The partner of each expert of a, and the cosine between the two.
    """
    a, b = check_layer(gram, a), check_layer(gram, b)
    return assign(gram.cosine_pair(a, b))


def nearest_experts(
    gram: RouterGram, layer: int, expert: int, n: int = 10, *, other_layers: bool = True
) -> list[tuple[int, int, float]]:
    """The experts whose router columns point most nearly where this one's does.

    Args:
        gram: all inner products.
        layer: row of the expert's layer.
        expert: its index in that layer.
        n: how many at most.
        other_layers: leave out the expert's own layer, where cosines have
            another baseline, -1 / (n_experts - 1) in the canonical view.

    Returns:
        (layer, expert, cosine), the largest cosine first.
    """
    layer = check_layer(gram, layer)
    if not 0 <= expert < gram.n_experts:
        raise LensError(
            f"expert: {expert} was asked for; expected 0 to {gram.n_experts - 1}. Choose an expert "
            "of this router set."
        )
    cosines = gram.cosine_row(layer)[expert]
    if other_layers:
        cosines[layer] = -np.inf
    else:
        cosines[layer, expert] = -np.inf
    order = np.argsort(-cosines, axis=None, kind="stable")[: max(n, 0)]
    rows, experts = np.unravel_index(order, cosines.shape)
    return [
        (int(a), int(e), float(cosines[a, e]))
        for a, e in zip(rows, experts, strict=True)
        if np.isfinite(cosines[a, e])
    ]
