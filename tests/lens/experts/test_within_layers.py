"""Experts of one layer against each other."""

import numpy as np
import pytest

from lens.experts.within_layers import within_layers
from lens.routers.gram import gram_of_columns

RNG = np.random.default_rng(79)
E = 6


def gram_of(columns: np.ndarray, view: str = "canonical"):
    columns = np.asarray(columns, np.float32)
    if view == "canonical":
        columns = columns - columns.mean(axis=2, keepdims=True)
    return gram_of_columns(columns)


@pytest.mark.parametrize("view, baseline", [("canonical", -1 / (E - 1)), ("raw", 0.0)])
def test_unrelated_experts_sit_at_the_baseline_with_uniform_p_values(view, baseline):
    found = within_layers(gram_of(RNG.standard_normal((80, 200, E)), view), view)
    assert found.baseline == pytest.approx(baseline, abs=2e-3)
    assert found.sd == pytest.approx(1 / np.sqrt(200), rel=0.25)
    pairs = np.triu_indices(E, 1)
    values = np.sort(found.p[:, *pairs].ravel())
    expected = (np.arange(len(values)) + 0.5) / len(values)
    assert np.abs(values - expected).max() < 0.06
    assert (found.q[:, *pairs].min(axis=1) <= 0.05).mean() <= 0.12
    assert np.isnan(np.einsum("lee->le", found.p)).all()
    np.testing.assert_array_equal(found.q, found.q.transpose(0, 2, 1))


def test_a_pair_that_reads_alike_and_a_pair_that_reads_opposite_are_found():
    columns = RNG.standard_normal((2, 200, E))
    columns[0, :, 4] = 0.7 * columns[0, :, 1] + 0.7 * columns[0, :, 4]
    columns[1, :, 2] = -0.8 * columns[1, :, 0] + 0.6 * columns[1, :, 2]
    found = within_layers(gram_of(columns))
    assert found.q[0, 1, 4] < 1e-4 and found.cosines[0, 1, 4] > found.baseline
    assert found.q[1, 0, 2] < 1e-4 and found.cosines[1, 0, 2] < found.baseline


def test_two_experts_are_always_opposite_once_their_mean_is_off():
    found = within_layers(gram_of(RNG.standard_normal((3, 50, 2))))
    np.testing.assert_allclose(found.cosines[:, 0, 1], -1, atol=1e-6)
    assert found.baseline == pytest.approx(-1) and (found.q[:, 0, 1] > 0.05).all()
