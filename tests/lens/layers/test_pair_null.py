"""All pairs of layers against chance."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from lens.errors import LensError
from lens.layers.pair_null import (
    adjacent_null,
    layer_null,
    null_of_pair,
    pairs_finding,
    permutation_null,
)
from lens.layers.similarity import LAYER_METRICS, layer_similarity
from lens.routers.gram import RouterGram, gram_of_columns
from lens.routers.matching import mean_matched
from lens.routers.random_rotations import unrelated_sets
from lens.routers.shuffled_coordinates import permuted_sets

RNG = np.random.default_rng(47)


def columns(n_layers: int, d_model: int = 60, n_experts: int = 5) -> np.ndarray:
    found = RNG.standard_normal((n_layers, d_model, n_experts)).astype(np.float32)
    found *= RNG.uniform(0.5, 2, (n_layers, 1, n_experts)).astype(np.float32)
    return found - found.mean(axis=2, keepdims=True)


def gram(n_layers: int, d_model: int = 60, n_experts: int = 5) -> RouterGram:
    return gram_of_columns(columns(n_layers, d_model, n_experts))


@pytest.mark.parametrize("metric", LAYER_METRICS)
def test_the_null_of_every_pair_is_that_of_layers_turned_in_full(metric):
    routers = gram(4)
    found = layer_null(routers, metric, draws=2000)
    drawn = np.stack([layer_similarity(s, metric) for s in unrelated_sets(routers, 2000, 9)])
    upper = np.triu_indices(4, 1)
    spread = drawn.std(axis=0)[upper]
    np.testing.assert_allclose(found.sd[upper], spread, rtol=0.12)
    wrong = found.mean[upper] - drawn.mean(axis=0)[upper]
    assert np.abs(wrong / spread).max() < 0.15
    z = (layer_similarity(routers, metric) - found.mean) / found.sd
    np.testing.assert_allclose(found.z[upper], z[upper])
    assert np.isnan(np.diagonal(found.p)).all()
    np.testing.assert_array_equal(found.q, found.q.T)


@pytest.mark.parametrize("metric", LAYER_METRICS)
def test_one_pair_and_adjacent_pairs_have_the_same_null(metric):
    routers = gram(3)
    found = layer_null(routers, metric, draws=2000)
    alone = null_of_pair(routers, 0, 1, metric, draws=2000, seed=4)
    series = adjacent_null(routers, metric, draws=2000, seed=4)
    assert series.shape == (2000, 2) and (np.diff(alone) >= 0).all()
    for values in (alone, series[:, 0]):
        assert values.mean() == pytest.approx(found.mean[0, 1], abs=found.sd[0, 1] * 0.15)
        assert values.std() == pytest.approx(found.sd[0, 1], rel=0.12)
    assert abs(np.corrcoef(series.T)[0, 1]) < 0.1


@pytest.mark.parametrize("metric", ["cka", "matched_cosine", "principal_angles"])
def test_planted_pairs_are_found_among_many_and_noise_rarely(metric):
    false_alarms = 0
    for seed in range(20):
        layers = columns(14, 200, 8)
        false_alarms += layer_null(gram_of_columns(layers), metric, seed=seed).found() > 0
    assert false_alarms <= 4  # 1 expected
    layers[9] = 0.6 * layers[2][:, RNG.permutation(8)] + 0.8 * layers[9]
    found = layer_null(gram_of_columns(layers), metric)
    assert found.q[2, 9] <= 0.001 and found.z[9, 2] > 5
    assert 1 <= found.found() <= 4


def test_permuted_coordinates_give_the_same_null_to_gaussian_weights():
    layers = columns(6)
    routers = gram_of_columns(layers)
    against = layer_null(routers, "cka")
    growing = list(permutation_null(routers, permuted_sets(layers, 60, 0), against, seed=0))
    assert [one.draws for one in growing] == list(range(1, 61))
    found = growing[-1]
    upper = np.triu_indices(6, 1)
    np.testing.assert_allclose(found.mean[upper], against.mean[upper], rtol=0.1)
    np.testing.assert_allclose(found.sd[upper], against.sd[upper], rtol=0.25)
    np.testing.assert_allclose(found.p[upper], against.p[upper], atol=0.12)
    assert "900 pairs pooled" in found.method and (found.seed, found.metric) == (0, "cka")


def test_a_few_dominant_coordinates_widen_the_permutation_null_alone():
    layers = columns(6, 100)
    layers[:, :2] *= 12  # every layer reads mostly two coordinates
    layers -= layers.mean(axis=2, keepdims=True)
    routers = gram_of_columns(layers)
    against = layer_null(routers, "cka")
    *_, found = permutation_null(routers, permuted_sets(layers, 80, 0), against, seed=0)
    upper = np.triu_indices(6, 1)
    assert (found.sd[upper] > 1.5 * against.sd[upper]).all()


def test_progress_tells_every_layer_and_may_stop_the_work():
    seen: list[tuple[int, int]] = []
    layer_null(gram(4), "cka", draws=19, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layer_null(gram(4), "cka", draws=19, progress=stop)


def test_seeds_and_settings_are_kept_and_followed():
    routers = gram(4)
    first, again = (layer_null(routers, "cka", draws=50, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.p, again.p)
    assert (first.draws, first.seed, first.metric) == (50, 3, "cka")
    assert not np.array_equal(first.mean, layer_null(routers, "cka", draws=50, seed=4).mean)


def test_one_layer_has_no_pairs():
    found = layer_null(gram(1), "cka")
    assert found.found() == 0 and np.isnan(found.p).all()
    assert adjacent_null(gram(1), "cka").shape == (1000, 0)


def test_numbers_of_draws_out_of_range_are_refused():
    for draws in (0, 18, 100_001):
        with pytest.raises(LensError, match=f"draws: found {draws}; expected 19 to 100,000"):
            layer_null(gram(2), draws=draws)


def test_matches_of_many_experts_are_pooled_over_pairs(monkeypatch):
    routers = gram(4, 60, 12)
    monkeypatch.setattr("lens.layers.pair_null.affordable_matchings", lambda _experts: 300)
    found = layer_null(routers, "matched_cosine")
    drawn = np.concatenate(
        [null_of_pair(routers, a, b, "matched_cosine", draws=100) for a, b in ((0, 1), (2, 3))]
    )
    upper = np.triu_indices(4, 1)
    np.testing.assert_allclose(found.mean[upper], drawn.mean(), atol=0.3 * drawn.std())
    np.testing.assert_allclose(found.sd[upper], drawn.std(), rtol=0.3)
    assert "6 pairs of layers pooled" in found.method and found.draws == 50
    assert (found.p[upper] > 0).all() and found.found() == 0


@pytest.mark.parametrize("n_experts", [2, 5, 8, 10])
def test_the_best_assignments_of_a_batch_are_those_of_one_at_a_time(n_experts):
    matrices = RNG.standard_normal((2500, n_experts, n_experts))
    found = mean_matched(matrices)
    for i in range(0, 2500, 250):
        rows, partner = linear_sum_assignment(matrices[i], maximize=True)
        assert found[i] == pytest.approx(matrices[i][rows, partner].mean())
    np.testing.assert_allclose(mean_matched(matrices.transpose(0, 2, 1)), found)
    few = mean_matched(matrices[:40])  # one at a time
    np.testing.assert_allclose(few, found[:40])


def test_pairs_are_counted_in_one_sentence_for_page_and_report():
    null = layer_null(gram(4), draws=99, seed=7)
    found = pairs_finding(null)
    pairs = len(null.q) * (len(null.q) - 1) // 2
    assert null.found() == 0 and not found.found
    assert found.sentence == "No pair of layers is alike beyond unrelated directions."
    assert found.detail.startswith(f"0 of {pairs:,} pairs") and "99 draws, seed 7" in found.detail
    beaten = dataclasses.replace(null, q=np.where(np.arange(16).reshape(4, 4) == 1, 0.01, null.q))
    found = pairs_finding(beaten)
    assert found.found and found.sentence.startswith(f"1 of {pairs:,} pairs of layers are alike")
