"""Normal probabilities of many cases at once, against closed forms and scipy's one at a time."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from lens.experts.multivariate_normal import normal_below

RNG = np.random.default_rng(53)


def covariances(cases: int, dims: int) -> np.ndarray:
    columns = RNG.standard_normal((cases, dims + 3, dims)) * RNG.uniform(0.3, 3, (cases, 1, dims))
    return columns.transpose(0, 2, 1) @ columns


def test_one_dimension_is_the_normal_distribution_itself():
    bounds = np.array([[-1.0], [0.0], [2.0]])
    found = normal_below(np.full((3, 1, 1), 4.0), bounds).mean(axis=0)
    np.testing.assert_allclose(found, [0.308538, 0.5, 0.841345], atol=1e-6)


def test_two_dimensions_have_the_orthant_of_their_angle():
    for r in (-0.9, -0.3, 0.0, 0.7):
        found = normal_below(np.array([[[1.0, r], [r, 1.0]]]), np.zeros((1, 2)))
        assert found.mean() == pytest.approx(0.25 + np.arcsin(r) / (2 * np.pi), abs=3e-4)


@pytest.mark.parametrize("dims", [3, 6, 14])
def test_probabilities_are_scipys(dims):
    covariance = covariances(8, dims)
    bounds = RNG.normal(0.5, 1, (8, dims)) * np.sqrt(np.einsum("cii->ci", covariance))
    found = normal_below(covariance, bounds, points=4096)
    expected = [
        multivariate_normal.cdf(b, cov=c, maxpts=100_000, abseps=1e-5, releps=1e-5)
        for b, c in zip(bounds, covariance, strict=True)
    ]
    np.testing.assert_allclose(found.mean(axis=0), expected, atol=4e-4)
    assert found.std(axis=0).max() < 1e-3


def test_shifts_spread_as_their_mean_errs():
    covariance = covariances(30, 6)
    shifts = normal_below(covariance, np.zeros((30, 6)), points=256, shifts=16)
    truth = normal_below(covariance, np.zeros((30, 6)), points=20_000).mean(axis=0)
    wrong = shifts.mean(axis=0) - truth
    stated = shifts.std(axis=0, ddof=1) / 4
    assert 0.4 < np.sqrt((wrong**2).mean() / (stated**2).mean()) < 2


def test_independent_dimensions_multiply():
    found = normal_below(np.eye(5)[None] * 9, np.zeros((1, 5)))
    assert found.mean() == pytest.approx(1 / 32, abs=1e-6)
