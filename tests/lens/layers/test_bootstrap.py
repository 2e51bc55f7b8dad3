"""Intervals over coordinates, against brute force and against a known truth."""

import numpy as np
import pytest

from lens.errors import LensError
from lens.layers.bootstrap import (
    adjacent_intervals,
    pair_interval,
    resampled_counts,
)
from lens.layers.similarity import LAYER_METRICS, layer_similarity
from lens.routers.gram import gram_of_columns

RNG = np.random.default_rng(67)
E = 4


def related(d_model: int, likeness: float) -> np.ndarray:
    first = RNG.standard_normal((d_model, E))
    second = likeness * first + np.sqrt(1 - likeness**2) * RNG.standard_normal((d_model, E))
    pair = np.stack([first, second]).astype(np.float32)
    return pair - pair.mean(axis=2, keepdims=True)


@pytest.mark.parametrize("metric", LAYER_METRICS)
def test_resampled_values_are_similarities_of_resampled_coordinates(metric):
    columns = related(50, 0.7)
    found = pair_interval(columns, 0, 1, metric, draws=60, seed=3)
    counts = resampled_counts(np.random.default_rng(3), 60, 50)
    slow = np.array(
        [
            layer_similarity(gram_of_columns(np.repeat(columns, row.astype(int), axis=1)), metric)[
                0, 1
            ]
            for row in counts
        ]
    )
    value = layer_similarity(gram_of_columns(columns), metric)[0, 1]
    assert found.value == pytest.approx(value, abs=1e-5)
    assert found.bias == pytest.approx(slow.mean() - value, abs=1e-4)
    low, high = np.quantile(slow, [0.025, 0.975]) + 2 * (value - slow.mean())
    least, most = LAYER_METRICS[metric].domain
    assert found.low == pytest.approx(np.clip(low, least, most), abs=1e-4)
    assert found.high == pytest.approx(np.clip(high, least, most), abs=1e-4)


def test_each_draw_takes_as_many_coordinates_as_there_are():
    counts = resampled_counts(RNG, 200, 40)
    np.testing.assert_array_equal(counts.sum(axis=1), 40)
    assert counts.mean(axis=0).std() < 0.15 and counts.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("metric", ["cka", "cosine", "matched_cosine"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(metric):
    truth = layer_similarity(gram_of_columns(related(400_000, 0.6)), metric)[0, 1]
    held = 0
    for seed in range(150):
        found = pair_interval(related(300, 0.6), 0, 1, metric, draws=199, seed=seed)
        held += found.low <= truth <= found.high
    assert 132 <= held <= 150  # 142 expected


def test_many_experts_are_resampled_in_the_same_way(monkeypatch):
    columns = related(60, 0.5)
    expected = pair_interval(columns, 0, 1, draws=30)
    monkeypatch.setattr("lens.layers.bootstrap.KEPT_PRODUCTS", 0)
    found = pair_interval(columns, 0, 1, draws=30)
    assert found.low == pytest.approx(expected.low, abs=1e-5)
    assert found.high == pytest.approx(expected.high, abs=1e-5)


def test_adjacent_pairs_get_the_intervals_they_get_alone():
    columns = RNG.standard_normal((4, 50, E)).astype(np.float32)
    columns -= columns.mean(axis=2, keepdims=True)
    found = adjacent_intervals(columns, "cka", draws=50, seed=2)
    for layer in range(3):
        one = pair_interval(columns, layer, layer + 1, "cka", draws=50, seed=2)
        assert (found.low[layer], found.high[layer]) == (one.low, one.high)
        assert found.value[layer] == one.value
    assert (found.draws, found.seed, found.level) == (50, 2, 0.95)


def test_higher_levels_give_wider_intervals():
    columns = related(100, 0.5)
    narrow, wide = (pair_interval(columns, 0, 1, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_scales_of_layers_change_nothing():
    columns = related(100, 0.5)
    scaled = columns * np.array([1e-20, 1e15], np.float32)[:, None, None]
    before, after = (pair_interval(c, 0, 1, draws=50) for c in (columns, scaled))
    assert after.low == pytest.approx(before.low, rel=1e-3)
    assert after.high == pytest.approx(before.high, rel=1e-3)


def test_what_cannot_be_computed_is_refused():
    columns = related(20, 0.5)
    with pytest.raises(LensError, match="row 2 was asked for; expected 0 to 1"):
        pair_interval(columns, 0, 2)
    with pytest.raises(LensError, match="level: found 1; expected a share"):
        pair_interval(columns, 0, 1, level=1.0)
    with pytest.raises(LensError, match="draws: found 3"):
        pair_interval(columns, 0, 1, draws=3)
    with pytest.raises(LensError, match="metric: found 'nope'"):
        pair_interval(columns, 0, 1, "nope")
