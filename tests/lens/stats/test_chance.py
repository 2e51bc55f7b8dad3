"""Draws and percentiles against simulation."""

import numpy as np
import pytest

from lens.stats.chance import cosine_percentile, gaussian_grams, percentile

RNG = np.random.default_rng(29)


@pytest.mark.parametrize("d_model", [3, 50])
def test_gaussian_inner_products_have_the_mean_and_spread_of_a_wishart_distribution(d_model):
    grams = gaussian_grams(RNG, 20_000, d_model, 4)
    np.testing.assert_allclose(grams.mean(axis=0), d_model * np.eye(4), atol=0.03 * d_model)
    variance = grams.var(axis=0)
    expected = d_model * (1 + np.eye(4))
    np.testing.assert_allclose(variance, expected, rtol=0.1)


def test_percentiles_count_ties_half():
    samples = np.array([1.0, 2.0, 2.0, 3.0])
    assert percentile(2.0, samples) == 50
    assert percentile(0.0, samples) == 0
    assert percentile(9.0, samples) == 100
    assert percentile(2.5, samples) == 75


def test_the_place_of_a_cosine_is_exact():
    vectors = RNG.standard_normal((100_000, 10))
    cosines = vectors[:, 0] / np.linalg.norm(vectors, axis=1)
    for value in (-0.5, -0.1, 0.0, 0.3, 0.7):
        assert cosine_percentile(value, 10) == pytest.approx(
            100 * (cosines < value).mean(), abs=0.5
        )
    assert cosine_percentile(1.0, 10) == 100 and cosine_percentile(-1.0, 10) == 0
