"""Changes of similarity from layer to layer, against the largest of drawn series."""

import numpy as np
import pytest

from lens.layers.mixing_null import null_beyond_shared
from lens.layers.pair_null import layer_null
from lens.layers.shared_directions import without_shared
from lens.layers.similarity import adjacent_layers
from lens.layers.transitions import Transitions, drawn_series, transitions
from lens.routers.gram import RouterGram, gram_of_columns
from tests.lens.router_noise import canonical, noise

RNG = np.random.default_rng(59)


def found_in(gram: RouterGram, metric: str = "cka", draws: int = 199, seed: int = 0) -> Transitions:
    """Changes against unrelated directions."""
    null = layer_null(gram, metric, draws=19)
    return transitions(
        adjacent_layers(gram, metric), drawn_series(gram, null, draws=draws, seed=seed)
    )


def beyond_shared(gram: RouterGram, metric: str, draws: int = 199) -> Transitions:
    """Changes against what all layers share."""
    shared = without_shared(gram)
    null = null_beyond_shared(shared, metric, draws=99)
    series = drawn_series(shared.gram, null, draws=draws)
    return transitions(adjacent_layers(shared.gram, metric), series)


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
    found = found_in(gram_of_columns(blocks(8, 8)), metric)
    assert found.found[7] and found.change[7] < 0
    assert found.p[7] == pytest.approx(1 / 200)
    # Back among its own: the same step upwards, marked too, and nothing else.
    assert set(np.flatnonzero(found.found)) == {7, 8}


def test_noise_has_a_false_mark_in_one_series_of_twenty_though_the_classic_rule_marks_many():
    marked, classic, below = 0, 0, 0
    for _ in range(120):
        layers = RNG.standard_normal((16, 60, 4)).astype(np.float32)
        layers -= layers.mean(axis=2, keepdims=True)
        found = found_in(gram_of_columns(layers), draws=99, seed=int(RNG.integers(2**31)))
        marked += found.found.any()
        below += np.nanmin(found.p) <= 0.05
        classic += int(found.classic.sum())
    assert below <= 14 and marked <= below  # 6 expected
    assert classic > 40


@pytest.mark.parametrize("metric", ["cka", "matched_cosine"])
def test_what_all_layers_share_changes_nothing_by_itself(metric):
    """Layers of noise with one outlier dimension: unrelated directions are beaten, this is not."""
    turned, mixed = [], []
    for seed in range(20):
        gram = canonical(noise("outlier × 15", seed))
        turned.append(np.nanmin(found_in(gram, metric, draws=99).p) <= 0.05)
        mixed.append(np.nanmin(beyond_shared(gram, metric, draws=99).p) <= 0.05)
    assert np.mean(turned) >= 0.9 and np.mean(mixed) <= 0.2


def test_a_border_of_two_runs_beats_what_all_layers_share():
    found = beyond_shared(gram_of_columns(blocks(8, 8)), "cka")
    assert found.p[7] <= 0.05 and found.change[7] < 0 and found.found[7]


def test_the_threshold_is_the_change_that_one_series_in_twenty_exceeds():
    gram = gram_of_columns(blocks(5, 5))
    found = found_in(gram, draws=1000)
    beyond = np.abs(found.change[1:]) > found.threshold
    np.testing.assert_array_equal(beyond, found.p[1:] <= 0.05)
    assert np.isnan(found.change[0]) and np.isnan(found.p[0]) and not found.found[0]


@pytest.mark.parametrize("n_layers", [1, 2])
def test_too_few_layers_have_no_changes(n_layers):
    found = found_in(gram_of_columns(blocks(n_layers)))
    assert len(found.p) == n_layers - 1
    assert np.isnan(found.p).all() and not found.found.any() and np.isnan(found.threshold)
