"""Changes of similarity from layer to layer, against the largest of a series of noise."""

import numpy as np
import pytest

from lens.layers.transitions import transitions
from lens.routers.gram import gram_of_columns

RNG = np.random.default_rng(59)


def blocks(*sizes: int, likeness: float = 0.8) -> np.ndarray:
    """Layers in runs; those of a run are alike."""
    layers = []
    for size in sizes:
        base = RNG.standard_normal((200, 8))
        for _ in range(size):
            own = RNG.standard_normal((200, 8))
            layers.append(likeness * base + np.sqrt(1 - likeness**2) * own)
    found = np.stack(layers).astype(np.float32)
    return found - found.mean(axis=2, keepdims=True)


@pytest.mark.parametrize("metric", ["cka", "matched_cosine"])
def test_the_border_of_two_runs_is_a_transition(metric):
    found = transitions(gram_of_columns(blocks(8, 8)), metric, draws=199)
    assert found.found[7] and found.change[7] < 0
    assert found.p[7] == pytest.approx(1 / 200)
    # Back among its own: the same step upwards, marked too, and nothing else.
    assert set(np.flatnonzero(found.found)) == {7, 8}


def test_noise_has_a_false_mark_in_one_series_of_twenty_though_the_classic_rule_marks_many():
    marked, classic, below = 0, 0, 0
    for _ in range(120):
        noise = RNG.standard_normal((16, 60, 4)).astype(np.float32)
        noise -= noise.mean(axis=2, keepdims=True)
        found = transitions(gram_of_columns(noise), draws=99, seed=int(RNG.integers(2**31)))
        marked += found.found.any()
        below += np.nanmin(found.p) <= 0.05
        classic += int(found.classic.sum())
    assert below <= 14 and marked <= below  # 6 expected
    assert classic > 40


def test_the_threshold_is_the_change_that_one_series_in_twenty_exceeds():
    gram = gram_of_columns(blocks(5, 5))
    found = transitions(gram, draws=1000)
    beyond = np.abs(found.change[1:]) > found.threshold
    np.testing.assert_array_equal(beyond, found.p[1:] <= 0.05)
    assert np.isnan(found.change[0]) and np.isnan(found.p[0]) and not found.found[0]


@pytest.mark.parametrize("n_layers", [1, 2])
def test_too_few_layers_have_no_changes(n_layers):
    found = transitions(gram_of_columns(blocks(n_layers)))
    assert len(found.p) == n_layers - 1
    assert np.isnan(found.p).all() and not found.found.any() and np.isnan(found.threshold)
