"""Experts of one layer against each other."""

import numpy as np
import pytest

from lens.experts.unequal_experts import equal_experts
from lens.experts.within_layers import EQUAL, UNRELATED, WithinLayers, within_layers
from lens.routers.gram import gram_of_columns
from lens.routers.router_set import RouterSet
from tests.lens.router_noise import canonical, noise, router_set

RNG = np.random.default_rng(79)
E = 6


def within(routers: RouterSet, seed: int = 0) -> WithinLayers:
    gram = canonical(routers)
    return within_layers(gram, equal_experts(routers, gram, draws=99, mixed=200, seed=seed))


@pytest.mark.parametrize(
    "kind", ["isotropic", "shared γ, σ 1", "outlier × 15", "subspace of 32", "Student-t, 3"]
)
def test_pairs_of_equal_experts_are_no_finding_whatever_their_weights_share(kind):
    """In 30 sets 4.6, 3.9, 2.8, 4.7 and 3.9 % of pairs; beside unrelated columns 5 to 67 %."""
    upper = np.triu_indices(8, 1)
    p, any_q = [], []
    for seed in range(12):
        found = within(noise(kind, seed), seed)
        p.append(found.p[:, *upper])
        any_q.append((found.q[:, *upper] <= 0.05).any(axis=1))
    assert np.mean(np.array(p) <= 0.05) < 0.06
    assert np.mean(any_q) < 0.09  # of layers: 2.8, 1.1, 0.0, 6.1 and 3.3 %


def test_unrelated_columns_of_the_raw_view_have_uniform_p_values():
    found = within_layers(gram_of_columns(RNG.standard_normal((80, 200, E)).astype(np.float32)))
    assert found.null == UNRELATED and found.baseline == 0
    assert found.sd == pytest.approx(1 / np.sqrt(200), rel=0.05)
    pairs = np.triu_indices(E, 1)
    values = np.sort(found.p[:, *pairs].ravel())
    expected = (np.arange(len(values)) + 0.5) / len(values)
    assert np.abs(values - expected).max() < 0.06
    assert np.isnan(np.einsum("lee->le", found.p)).all()
    np.testing.assert_array_equal(found.q, found.q.transpose(0, 2, 1))


def test_a_pair_that_reads_alike_and_a_pair_that_reads_opposite_are_found():
    columns = RNG.standard_normal((6, 200, E))
    columns[0, :, 4] = 0.7 * columns[0, :, 1] + 0.7 * columns[0, :, 4]
    columns[1, :, 2] = -0.8 * columns[1, :, 0] + 0.6 * columns[1, :, 2]
    found = within(router_set(columns))
    assert found.null == EQUAL and found.baseline == pytest.approx(-1 / (E - 1))
    assert found.unrelated_sd == pytest.approx(1 / np.sqrt(200), rel=0.1)
    assert found.q[0, 1, 4] < 1e-3 and found.cosines[0, 1, 4] > found.baseline
    assert found.q[1, 0, 2] < 1e-3 and found.cosines[1, 0, 2] < found.baseline


def test_two_experts_are_always_opposite_once_their_mean_is_off():
    found = within(router_set(RNG.standard_normal((3, 50, 2))))
    np.testing.assert_allclose(found.cosines[:, 0, 1], -1, atol=1e-6)
    assert found.baseline == pytest.approx(-1) and (found.q[:, 0, 1] > 0.05).all()
