"""Layers as points of a map.

Axes: layer (L), dim (the map's 2 or 3 dimensions).
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from lens.clustering.trees import standardized_distances
from lens.errors import LensError
from lens.layers.similarity import layer_distances
from lens.routers.gram import RouterGram, standardized_gram
from lens.routers.router_set import RouterSet
from lens.words import significant

METHODS = ("pca", "mds", "tsne", "umap")
SEEDED = ("tsne", "umap")
CLASSIC = "classic"
MIN_LAYERS = 4


@dataclass(frozen=True)
class MapSettings:
    """Settings that a map depends on besides the routers and the method.

    Attributes:
        metric: an id of `LAYER_METRICS`, or "classic": Euclidean distances of raw
            routers flattened and standardised. "pca" has no use for it.
        dims: 2 or 3.
        seed: for t-SNE and UMAP.
        perplexity: for t-SNE; by default 30, and never above (L − 1) / 3.
        neighbours: for UMAP, at most L − 1.
        min_dist: for UMAP.
    """

    metric: str = "cka"
    dims: int = 2
    seed: int = 42
    perplexity: float | None = None
    neighbours: int = 15
    min_dist: float = 0.1


DEFAULTS = MapSettings()


@dataclass(frozen=True, eq=False)
class LayerMap:
    """A map of the layers, and how far to trust it.

    Attributes:
        points: one for each layer. Only their distances mean something, and for
            t-SNE and UMAP only the small ones.
        explained: share of the variance along each dimension; None for t-SNE and
            UMAP, which have no such thing.
        trustworthiness: whether neighbours on the map are neighbours in truth:
            1 is all of them, about 0.5 is none.
        method: an entry of `METHODS`.
        settings: everything that the points depend on besides the routers.
    """

    points: Float[np.ndarray, "layer dim"]
    explained: Float[np.ndarray, " dim"] | None
    trustworthiness: float
    method: str
    settings: dict[str, Any]


def layer_map(
    routers: RouterSet,
    gram: RouterGram,
    method: str = "mds",
    settings: MapSettings = DEFAULTS,
    *,
    distances: Float[np.ndarray, "layer layer"] | None = None,
) -> LayerMap:
    """Layers placed so that those whose routers are alike lie close.

    Args:
        routers: the set; "pca" and the metric "classic" read its raw weights.
        gram: all inner products, in the view to be mapped.
        method: "mds" (classical scaling of the metric's distances; deterministic),
            "pca" (the classic one, of raw routers flattened and standardised: depends
            on expert labels), "tsne" or "umap" of the metric's distances.
        settings: metric, dimensions, and those of t-SNE and UMAP.
        distances: of the metric in this gram, if known.

    Raises:
        LensError: a setting is out of range, or there are fewer than 4 layers.
    """
    n, metric = gram.n_layers, settings.metric
    check_map(n, method, settings)
    used: dict[str, Any] = {"dims": settings.dims}
    explained: np.ndarray | None
    if method == "pca":
        used["input"] = "raw routers, flattened and standardised"
        distances = standardized_distances(routers)
        points, explained = _principal(standardized_gram(routers), settings.dims)
    else:
        if metric == CLASSIC:
            distances = standardized_distances(routers)
        elif distances is None:
            distances = layer_distances(gram, metric)
        used |= {"metric": metric, **_used(n, method, settings)}
        points, explained = map_of_distances(distances, method, settings)
    k = trust_neighbours(n)
    used["trust_neighbours"] = k
    return LayerMap(
        points=points,
        explained=explained,
        trustworthiness=trustworthiness(distances, points, k),
        method=method,
        settings=used,
    )


def check_map(n_layers: int, method: str, settings: MapSettings) -> None:
    """Refuses a method that is not known, too few layers, and settings out of range."""
    if method not in METHODS:
        raise LensError(f"map: found {str(method)[:40]!r}; expected one of {', '.join(METHODS)}.")
    if n_layers < MIN_LAYERS:
        raise LensError(
            f"A map of layers needs at least {MIN_LAYERS} layers; this router set has {n_layers}. "
            "Load a model with more layers."
        )
    if settings.dims not in (2, 3):
        raise LensError(f"dims: found {settings.dims}; expected 2 or 3.")
    if method == "umap":
        if settings.neighbours < 2:
            raise LensError(f"neighbours: found {settings.neighbours}; expected 2 or more.")
        if not 0 <= settings.min_dist <= 1:
            raise LensError(f"min_dist: found {settings.min_dist:g}; expected 0 to 1.")


def _used(n_layers: int, method: str, settings: MapSettings) -> dict[str, Any]:
    """The settings of t-SNE or of UMAP as so many layers let them be."""
    if method == "tsne":
        perplexity = tsne_perplexity(n_layers, settings.perplexity)
        return {"perplexity": perplexity, "seed": settings.seed}
    if method == "umap":
        neighbours = min(settings.neighbours, n_layers - 1)
        return {"neighbours": neighbours, "min_dist": settings.min_dist, "seed": settings.seed}
    return {}


def tsne_perplexity(n_layers: int, asked: float | None) -> float:
    """The perplexity asked for, by default 30, and never above a third of the other layers."""
    limit = (n_layers - 1) / 3
    if asked is not None and not 0 < asked <= limit:
        raise LensError(
            f"perplexity: found {asked:g}; expected more than 0 and at most {significant(limit)}, "
            "a third of the other layers."
        )
    return min(30.0, limit) if asked is None else float(asked)


def map_of_distances(
    distances: Float[np.ndarray, "layer layer"], method: str, settings: MapSettings = DEFAULTS
) -> tuple[Float[np.ndarray, "layer dim"], Float[np.ndarray, " dim"] | None]:
    """Points with about these distances, and the share of variance along each dimension.

    "pca" and "mds" are one here: principal axes of points with Euclidean distances are
    what classical scaling finds. Settings are in range; their metric is not read.
    """
    n, dims, seed = len(distances), settings.dims, settings.seed
    if method == "tsne":
        return _tsne(distances, dims, seed, tsne_perplexity(n, settings.perplexity)), None
    if method == "umap":
        neighbours = min(settings.neighbours, n - 1)
        return _umap(distances, dims, seed, neighbours, settings.min_dist), None
    inner = -0.5 * distances**2
    inner = inner - inner.mean(axis=0) - inner.mean(axis=1)[:, None] + inner.mean()
    return _principal(inner, dims)


def _principal(inner: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the largest axes of centred inner products, and their shares.

    The sign of each axis is fixed by making its largest coordinate positive. Axes
    with negative eigenvalues, which distances that are not Euclidean have, count
    neither as coordinates nor in the total.
    """
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    values = np.maximum(values[::-1], 0)
    points = vectors[:, ::-1][:, :dims] * np.sqrt(values[:dims])
    largest = points[np.abs(points).argmax(axis=0), np.arange(dims)]
    points = points * np.where(largest < 0, -1, 1)
    total = values.sum()
    return points, values[:dims] / total if total > 0 else np.zeros(dims)


def _tsne(distances: np.ndarray, dims: int, seed: int, perplexity: float) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    model = TSNE(
        n_components=dims,
        metric="precomputed",
        init="random",
        perplexity=perplexity,
        random_state=seed,
    )
    with threadpool_limits(1):  # so few points gain nothing from threads, which wait for each other
        return model.fit_transform(distances).astype(np.float64)


def _umap(
    distances: np.ndarray, dims: int, seed: int, neighbours: int, min_dist: float
) -> np.ndarray:
    with warnings.catch_warnings():
        # UMAP says that a part of it that isn't used here lacks its library, and on
        # every fit with given distances that it could not map new points.
        warnings.filterwarnings("ignore", message="Tensorflow not installed")
        warnings.filterwarnings("ignore", message="using precomputed metric")
        UMAP = _umap_of_distances()
        few = len(distances) <= dims + 1  # too few for its spectral start
        model = UMAP(
            n_components=dims,
            metric="precomputed",
            n_neighbors=neighbours,
            min_dist=min_dist,
            init="random" if few else "spectral",
            random_state=seed,
            n_jobs=1,
        )
        return np.asarray(model.fit_transform(distances), dtype=np.float64)


# What UMAP imports of its search for neighbours among points.
_SEARCH: dict[str, dict[str, Any]] = {
    "pynndescent": {"NNDescent": object},
    "pynndescent.distances": {"named_distances": {}},
    "pynndescent.sparse": {"sparse_named_distances": {}},
}


def _umap_of_distances() -> Any:
    """`umap.UMAP` without its search for neighbours, which given distances never ask.

    Compiling that search is half of the time to the first map: 13 s of 26.
    """
    if "umap" not in sys.modules and "pynndescent" not in sys.modules:
        for name, holds in _SEARCH.items():
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__dict__.update(holds)
        try:
            import umap
        finally:
            for name in _SEARCH:
                sys.modules.pop(name, None)
    import umap

    return umap.UMAP


def trust_neighbours(n_layers: int) -> int:
    """Neighbours by which a map is judged: 5, fewer where that is half the layers or more."""
    return max(1, min(5, (n_layers - 1) // 2))


def trustworthiness(
    distances: Float[np.ndarray, "layer layer"],
    points: Float[np.ndarray, "layer dim"],
    k: int,
) -> float:
    """Trustworthiness: share of the k nearest neighbours on a map that are near in truth.

    1 − 2 / (n·k·(2n − 3k − 1)) · Σ over layers and their neighbours on the map of
    max(0, true rank − k). Reading it: 1 is perfect, about 0.5 a random map.
    Source: Venna and Kaski, 2001.
    """
    n = len(points)
    true = distances.astype(np.float64, copy=True)
    np.fill_diagonal(true, -1)  # itself comes first
    rank = np.empty((n, n), np.int64)
    np.put_along_axis(rank, np.argsort(true, axis=1, kind="stable"), np.arange(n)[None], axis=1)
    shown = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(shown, np.inf)
    nearest = np.argsort(shown, axis=1, kind="stable")[:, :k]
    excess = np.maximum(np.take_along_axis(rank, nearest, axis=1) - k, 0)
    return float(1 - 2 * excess.sum() / (n * k * (2 * n - 3 * k - 1)))
