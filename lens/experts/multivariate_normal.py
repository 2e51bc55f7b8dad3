"""Probabilities that several jointly normal numbers all stay below bounds, many at once.

Axes: case (one covariance with its bounds), dim, point.

scipy's `multivariate_normal.cdf` computes one such probability in milliseconds. The
selection probabilities of 64 layers of 8 experts are 4,096 of them, so they are computed
together here, by the same transformation on the same kind of points.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

POINTS = 1024
SHIFTS = 4
SEED = 20
# Values of one dimension held at once, in numbers.
HELD = 2**20


def normal_below(
    covariance: Float[np.ndarray, "case dim dim"],
    bounds: Float[np.ndarray, "case dim"],
    *,
    points: int = POINTS,
    shifts: int = SHIFTS,
    seed: int = SEED,
) -> Float[np.ndarray, "shift case"]:
    """P(y_i ≤ b_i for all i) with y ~ N(0, covariance), for every case.

    With y = L u (Cholesky) the probability is an integral over the unit cube of a
    product of one-dimensional normal probabilities, each given the dimensions
    before it; the cube is covered by a lattice, folded so that the integrand
    becomes periodic, and shifted at random. Source: Genz, 1992.

    Args:
        covariance: positive definite.
        bounds: in the units of y.
        points: of the lattice.
        shifts: random shifts of the lattice.
        seed: of the shifts.

    Returns:
        The probabilities by each shift: their mean is the answer, their spread says
        how good it is.
    """
    n_cases, n_dims = bounds.shape
    unit = 1 / np.sqrt(np.einsum("cii->ci", covariance))
    order = np.argsort(bounds * unit, axis=1, kind="stable")  # narrowest first
    take = np.take_along_axis
    bound = take(bounds * unit, order, axis=1)
    matrix = covariance * unit[:, :, None] * unit[:, None, :]
    matrix = take(take(matrix, order[:, :, None], axis=1), order[:, None, :], axis=2)
    factor = np.linalg.cholesky(matrix)
    shift = np.random.default_rng(seed).random((shifts, max(n_dims - 1, 1)))
    found = np.empty((shifts, n_cases))
    step = max(1, HELD // points)
    for s in range(shifts):
        cube = _lattice(points, shift[s])  # [dim, point]
        for start in range(0, n_cases, step):
            cases = slice(start, start + step)
            found[s, cases] = _averages(factor[cases], bound[cases], cube)
    return found


def _lattice(points: int, shift: Float[np.ndarray, " dim"]) -> Float[np.ndarray, "dim point"]:
    """Points n·√prime mod 1, shifted, folded at the middle."""
    primes = [p for p in range(2, 400) if all(p % q for q in range(2, int(p**0.5) + 1))]
    root = np.sqrt(np.array(primes[: len(shift)], dtype=np.float64))
    cube = (root[:, None] * np.arange(1.0, points + 1) + shift[:, None]) % 1
    return np.abs(2 * cube - 1)


def _averages(
    factor: Float[np.ndarray, "case dim dim"],
    bound: Float[np.ndarray, "case dim"],
    cube: Float[np.ndarray, "dim point"],
) -> Float[np.ndarray, " case"]:
    """Mean over the points of the product of conditional probabilities."""
    from scipy.special import ndtr, ndtri

    n_cases, n_dims = bound.shape
    below = ndtr(bound[:, :1] / factor[:, :1, 0])  # [case, 1]
    product = np.repeat(below, cube.shape[1], axis=1)
    drawn = np.empty((n_cases, n_dims - 1, cube.shape[1]))
    for dim in range(1, n_dims):
        drawn[:, dim - 1] = ndtri(np.maximum(below * cube[dim - 1], 1e-300))
        row = factor[:, dim]
        mean = (row[:, None, :dim] @ drawn[:, :dim])[:, 0]
        below = ndtr((bound[:, dim, None] - mean) / row[:, dim, None])
        product *= below
    return product.mean(axis=1)
