"""Stability of maps: maps of several seeds beside each other, and beside chance.

Axes: layer (L), draw, seed, dim (the map's 2 or 3 dimensions).

A map that depends on a seed is made with three, and the three are compared: how far they
differ after the best shift, turn and scale, and whether the layers keep their nearest
neighbours. And maps of sets that keep what a reference keeps, made in the same way, say
how trustworthy a map is that has nothing to show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations

import numpy as np
from jaxtyping import Float

from lens.clustering.maps import (
    CLASSIC,
    SEEDED,
    LayerMap,
    MapSettings,
    layer_map,
    map_of_distances,
    trust_neighbours,
    trustworthiness,
)
from lens.clustering.reference_sets import ClusteredLayers, PairMoments, drawn_distances
from lens.clustering.tree_null import shuffled_classic
from lens.errors import LensError
from lens.layers.references import Reference
from lens.stats.p_values import monte_carlo_p

SEEDS = 3
# Maps of drawn sets: quick ones, and those that take a fit each.
DRAWS = {"pca": 99, "mds": 99, "tsne": 19, "umap": 19}
SHUFFLES = 199


@dataclass(frozen=True)
class TrustNull:
    """Trustworthiness of a map beside that of maps of drawn sets.

    Attributes:
        value: of the map.
        mean, low, high: of maps of drawn sets: mean, least and largest value.
        random: of points at random places, on average.
        p: share of drawn maps at least as trustworthy.
        draws, seed: of the drawn sets.
        reference: what they keep.
    """

    value: float
    mean: float
    low: float
    high: float
    random: float
    p: float
    draws: int
    seed: int
    reference: Reference


@dataclass(frozen=True)
class MapStability:
    """Agreement of maps of the same layers made with different seeds.

    Attributes:
        seeds: of the maps.
        disparity: Procrustes disparity between two maps, mean over pairs: 0 the same map
            up to shift, turn, mirror image and scale, 1 nothing in common.
        disparity_chance: the same when the layers of one map are shuffled.
        overlap: nearest neighbours that two maps share, as a part of those that either
            has (Jaccard), mean over layers and pairs: 1 the same neighbours, 0 none.
        overlap_chance: the same for neighbours at random, exactly.
        neighbours: how many neighbours count.
        p: share of shuffles with as little disparity, the largest over pairs of maps.
        draws: shuffles of each pair.
    """

    seeds: tuple[int, ...]
    disparity: float
    disparity_chance: float
    overlap: float
    overlap_chance: float
    neighbours: int
    p: float
    draws: int


def random_trust(n_layers: int, k: int) -> float:
    """Trustworthiness of points at random places, on average: about 0.5.

    Every true rank from 1 to n − 1 is then as likely for a neighbour on the map, so that
    the excess over k has the mean (n − k)(n − k − 1) / (2(n − 1)).
    """
    n = n_layers
    return 1 - (n - k) * (n - k - 1) / ((n - 1) * (2 * n - 3 * k - 1))


def trust_null(
    layers: ClusteredLayers,
    found: LayerMap,
    *,
    draws: int | None = None,
    seed: int = 0,
    moments: PairMoments | None = None,
) -> TrustNull:
    """Trustworthiness of a map, beside maps of drawn sets with the same settings.

    Maps of raw routers flattened and standardised are set against shuffled coordinates.

    Args:
        layers: what the map was made of.
        found: the map, from `lens.clustering.maps.layer_map`.
        draws: drawn sets; by default 99, of t-SNE and UMAP 19.
        seed: of the drawn sets.
        moments: `lens.clustering.reference_sets.pair_moments` of these layers, if known.
    """
    metric, k = found.settings.get("metric", CLASSIC), found.settings["trust_neighbours"]
    names = [field.name for field in fields(MapSettings)]
    settings = MapSettings(
        **{name: found.settings[name] for name in names if name in found.settings}
    )
    number = DRAWS[found.method] if draws is None else draws
    if number < 1:
        raise LensError(f"draws: found {number}; expected 1 or more.")
    classic = metric == CLASSIC or found.method == "pca"
    drawn = (
        shuffled_classic(layers.routers, number, seed)
        if classic
        else drawn_distances(layers, number, seed, moments)
    )
    values = []
    for distances in drawn:
        points, _ = map_of_distances(distances, found.method, settings)
        values.append(trustworthiness(distances, points, k))
    trust = np.array(values)
    return TrustNull(
        value=found.trustworthiness,
        mean=float(trust.mean()),
        low=float(trust.min()),
        high=float(trust.max()),
        random=random_trust(layers.gram.n_layers, k),
        p=float(monte_carlo_p(found.trustworthiness, trust)),
        draws=number,
        seed=seed,
        reference="shuffled" if classic else layers.reference,
    )


def map_stability(
    make: Callable[[int], LayerMap],
    seed: int,
    *,
    seeds: int = SEEDS,
    draws: int = SHUFFLES,
) -> MapStability:
    """A map made again with the seeds that follow, and how alike the maps are.

    Args:
        make: the map of a seed, by a method that has one.
        seed: the first.
        seeds: how many maps.
        draws: shuffles of the layers of one map of each pair, for chance.
    """
    maps = [make(seed + i) for i in range(seeds)]
    if maps[0].method not in SEEDED:
        raise LensError(
            f"{maps[0].method}: this map has no seed to compare; expected one of "
            f"{', '.join(SEEDED)}."
        )
    return maps_agreement([one.points for one in maps], range(seed, seed + seeds), draws=draws)


def layer_map_stability(
    layers: ClusteredLayers, method: str, settings: MapSettings
) -> MapStability:
    """`map_stability` of `lens.clustering.maps.layer_map` with these settings."""
    return map_stability(
        lambda seed: layer_map(layers.routers, layers.gram, method, replace(settings, seed=seed)),
        settings.seed,
    )


def maps_agreement(
    maps: Sequence[Float[np.ndarray, "layer dim"]],
    seeds: Sequence[int],
    *,
    draws: int = SHUFFLES,
) -> MapStability:
    """Agreement of several maps of the same layers."""
    n = len(maps[0])
    k = trust_neighbours(n)
    rng = np.random.default_rng(0)
    unlike, by_chance, shared, p_values = [], [], [], []
    for first, second in combinations(maps, 2):
        orders = rng.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
        value = disparities(first, second, np.arange(n)[None])[0]
        drawn = disparities(first, second, orders)
        unlike.append(value)
        by_chance.append(drawn.mean())
        p_values.append(monte_carlo_p(-value, -drawn))
        shared.append(neighbour_overlap(first, second, k))
    return MapStability(
        seeds=tuple(int(own) for own in seeds),
        disparity=float(np.mean(unlike)),
        disparity_chance=float(np.mean(by_chance)),
        overlap=float(np.mean(shared)),
        overlap_chance=chance_overlap(n, k),
        neighbours=k,
        p=float(np.max(p_values)),
        draws=draws,
    )


def disparities(
    first: Float[np.ndarray, "layer dim"],
    second: Float[np.ndarray, "layer dim"],
    orders: Float[np.ndarray, "draw layer"],
) -> Float[np.ndarray, " draw"]:
    """Procrustes disparity of two maps, for each order of the second one's layers.

    1 − (Σσ)², σ the singular values of AᵀB, A and B the maps centred and of unit norm:
    the squared distance that the best shift, turn, mirror image and scale leave.
    Source: Gower, 1975.
    """
    a, b = (_unit(points) for points in (first, second))
    products = np.einsum("li,dlj->dij", a, b[orders])
    sums = np.linalg.svd(products, compute_uv=False).sum(axis=1)
    return np.clip(1 - sums**2, 0, 1)


def _unit(points: Float[np.ndarray, "layer dim"]) -> Float[np.ndarray, "layer dim"]:
    centred = points - points.mean(axis=0)
    size = float(np.linalg.norm(centred))
    return centred / size if size > 0 else centred


def nearest_layers(points: Float[np.ndarray, "layer dim"], k: int) -> np.ndarray:
    """True where one layer (column) is among the k nearest of another (row) on a map."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    near = np.zeros(distances.shape, bool)
    np.put_along_axis(near, np.argsort(distances, axis=1, kind="stable")[:, :k], True, axis=1)
    return near


def neighbour_overlap(
    first: Float[np.ndarray, "layer dim"], second: Float[np.ndarray, "layer dim"], k: int
) -> float:
    """Neighbours common to two maps over those of either, mean over layers."""
    a, b = nearest_layers(first, k), nearest_layers(second, k)
    return float(((a & b).sum(axis=1) / (a | b).sum(axis=1)).mean())


def chance_overlap(n_layers: int, k: int) -> float:
    """Mean of `neighbour_overlap` when neighbours are k of the other layers at random.

    Σ_i P(i) · i / (2k − i), with i the common ones of two random choices of k among
    n − 1, which has a hypergeometric distribution.
    """
    from scipy.stats import hypergeom

    common = np.arange(k + 1)
    return float((hypergeom.pmf(common, n_layers - 1, k, k) * common / (2 * k - common)).sum())
