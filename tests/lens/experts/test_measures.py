"""Measures of single experts."""

import numpy as np
import pytest

from lens.experts.measures import expert_measures, largest_cosine_by_chance
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(17)
L, D, E = 5, 400, 8
ROUTERS = RouterSet(
    RNG.standard_normal((L, D, E)).astype(np.float32) + np.float32(0.3),
    norm_scales=RNG.uniform(0.5, 2, (L, D)).astype(np.float32),
)


@pytest.mark.parametrize("view", ["canonical", "raw"])
def test_measures_are_those_of_the_columns(view):
    columns = ROUTERS.columns(view).astype(np.float64)
    found = expert_measures(ROUTERS, router_gram(ROUTERS, view), view)
    norm = np.linalg.norm(columns, axis=1)
    np.testing.assert_allclose(found.norm, norm, rtol=1e-5)
    np.testing.assert_allclose(found.variance, columns.var(axis=1), rtol=1e-4)
    np.testing.assert_allclose(found.l1_l2, np.abs(columns).sum(axis=1) / norm, rtol=1e-5)
    across = columns.var(axis=0).mean(axis=0)
    np.testing.assert_allclose(found.cross_layer_variance, across, rtol=1e-4)
    np.testing.assert_allclose(found.breadth.sum(axis=1), 2, atol=1e-6)
    unit = columns / norm[:, None]
    for layer in range(L):
        others = np.delete(unit, layer, axis=0)
        cosines = np.einsum("de,ldf->elf", unit[layer], others)
        np.testing.assert_allclose(found.max_similarity[layer], cosines.max(axis=(1, 2)), atol=1e-5)


def test_gaussian_weights_sit_at_the_baselines():
    routers = RouterSet(RNG.standard_normal((16, 6144, 8)).astype(np.float32))
    found = expert_measures(routers, router_gram(routers))
    assert found.baselines["l1_l2"] == pytest.approx(62.5, abs=0.1)
    assert found.l1_l2.mean() == pytest.approx(found.baselines["l1_l2"], rel=0.002)
    assert found.baselines["breadth"] == 0.25
    assert np.median(found.max_similarity) == pytest.approx(
        found.baselines["max_similarity"], rel=0.05
    )


def test_a_single_layer_has_no_similarity_to_another():
    routers = RouterSet(ROUTERS.routers[:1])
    found = expert_measures(routers, router_gram(routers))
    assert np.isnan(found.max_similarity).all()
    assert "max_similarity" not in found.baselines
    np.testing.assert_allclose(found.cross_layer_variance, 0, atol=1e-12)


def test_the_chance_level_of_the_largest_cosine_is_its_median_in_simulation():
    vectors = RNG.standard_normal((400, 50, 30))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    largest = vectors[:, :, 0].max(axis=1)  # cosines with the first axis
    assert np.median(largest) == pytest.approx(largest_cosine_by_chance(30, 50), abs=0.01)
