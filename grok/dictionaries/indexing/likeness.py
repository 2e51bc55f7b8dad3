"""Features that write alike, and a map of all of them.

Axes: R features of all groups, D width, K neighbours. No JAX here.
"""

from __future__ import annotations

import warnings

import numpy as np

BLOCK = 1024
MAP_NEIGHBOURS = 15


def unit_rows(directions: np.ndarray) -> np.ndarray:
    """Directions [R, D] as unit vectors; those of length 0 stay."""
    size = np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(directions / np.maximum(size, 1e-30), np.float32)


def nearest(directions: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Features whose directions have the largest cosines with each one.

    Args:
        directions: [R, D].
        most: K.

    Returns:
        Their rows and the cosines, [R, K], the nearest first.
    """
    unit = unit_rows(directions)
    n = len(unit)
    most = min(most, n - 1)
    ids, cosines = np.zeros((n, most), np.int32), np.zeros((n, most), np.float32)
    if not most:
        return ids, cosines
    for first in range(0, n, BLOCK):
        own = unit[first : first + BLOCK] @ unit.T
        own[np.arange(len(own)), first + np.arange(len(own))] = -2
        few = np.argpartition(-own, most - 1, axis=1)[:, :most]
        found = np.take_along_axis(own, few, axis=1)
        order = np.lexsort((few, -found), axis=1)
        ids[first : first + BLOCK] = np.take_along_axis(few, order, axis=1)
        cosines[first : first + BLOCK] = np.take_along_axis(found, order, axis=1)
    return ids, cosines


def map_of(directions: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Places of features on a map, [R, 2] within −1 and 1: those that write alike lie together.

    Args:
        directions: [R, D].
        method: "umap" of unit vectors, or "pca": their first two principal axes.
        seed: of UMAP.
    """
    unit = unit_rows(directions)
    unit = unit - unit.mean(0)
    covariance = unit.T @ unit
    _, axes = np.linalg.eigh(covariance.astype(np.float64))
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    places = unit @ axes
    if method == "umap" and len(unit) > MAP_NEIGHBOURS:
        import umap

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a seed leaves one thread
            drawn = umap.UMAP(
                n_neighbors=MAP_NEIGHBOURS,
                min_dist=0.1,
                init=(10 * places / np.abs(places).max()).astype(np.float32),
                random_state=seed,
            )
            places = np.asarray(drawn.fit_transform(unit.astype(np.float32)))
    middle = (places.max(0) + places.min(0)) / 2
    half = np.maximum((places.max(0) - places.min(0)).max() / 2, 1e-30)
    return np.asarray((places - middle) / half, np.float32)
