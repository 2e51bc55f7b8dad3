"""Nulls of a trace's statistics: loads, pairs, repeats, margins, on noise and on plants."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from lens.errors import LensError
from lens.stats.draws import affordable_draws
from lens.stats.permutation_tests import against_chance, shuffled_orders
from lens.traces import load_null, routing
from lens.traces.coselection import coselection, coselection_of, pair_counts, pair_test
from lens.traces.margins import margin_histogram, margin_shape
from lens.traces.repeats import repeat_test
from tests.lens.traces.choices import random_choices, routed

UPPER = np.triu_indices(8, 1)


def normal_trace(seed, n_tokens=120, n_layers=1):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n_layers, n_tokens, 8)) * np.linspace(0.5, 2, 8) + np.arange(8) * 0.1
    return routed(np.argsort(-z, axis=-1)[..., :2], 8, z)


# --- shuffles -------------------------------------------------------------------


@pytest.mark.parametrize(("tail", "p"), [("upper", 2 / 20), ("lower", 1.0), ("both", 4 / 20)])
def test_p_counts_the_value_among_the_draws(tail, p):
    drawn = np.arange(19.0)[:, None]
    found = against_chance(np.array([18.0]), drawn, seed=0, method="", tail=tail)
    assert found.p[0] == pytest.approx(p)
    assert against_chance(np.array([99.0]), drawn, seed=0, method="").p[0] == 1 / 20


def test_shuffles_within_groups_keep_every_token_in_its_group():
    groups = np.repeat([0, 1, 2], [5, 1, 9])
    order = shuffled_orders(np.random.default_rng(0), 15, groups)
    np.testing.assert_array_equal(groups[order], groups)
    np.testing.assert_array_equal(np.sort(order), np.arange(15))
    assert (order != np.arange(15)).any()


def test_long_texts_get_fewer_draws_but_never_too_few():
    assert affordable_draws(10) == 999
    assert affordable_draws(1e12) == 199
    assert affordable_draws(1e12, 50) == 50


# --- loads ----------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 2])
def test_intervals_of_the_load_agree_with_scipy(top_k):
    trace = routed(random_choices(0, n_tokens=40, top_k=top_k, weights=[9, 3, 1, 1, 1, 1, 1, 0.01]))
    low, high = load_null.share_interval(trace, comparisons=1, times=np.ones(1))
    counts = np.rint(routing.load(trace)[0] * 40 * top_k).astype(int)
    for expert, count in enumerate(counts):
        exact = binomtest(count, 40).proportion_ci(0.95, "exact")
        np.testing.assert_allclose(
            [low[0, expert], high[0, expert]], [exact.low / top_k, exact.high / top_k]
        )


def test_an_expert_never_or_always_chosen_has_a_one_sided_interval():
    low, high = load_null.share_interval(routed([[[0, 1], [0, 2], [0, 3]]], 5))
    assert high[0, 0] == 0.5
    assert low[0, 0] > 0
    assert low[0, 4] == 0
    assert high[0, 4] > 0


def test_intervals_of_a_layer_hold_together():
    weights = np.array([4, 3, 2, 2, 1, 1, 1, 0.5])
    sets = np.array(list(itertools.combinations(range(8), 2)))
    chance = weights[sets].prod(axis=1) / weights[sets].prod(axis=1).sum()
    truth = np.array([chance[(sets == e).any(axis=1)].sum() for e in range(8)]) / 2
    low, high = load_null.share_interval(
        routed(random_choices(0, n_layers=400, n_tokens=60, weights=weights))
    )
    held = ((low <= truth) & (truth <= high)).all(axis=1).mean()
    assert held >= 0.95 - 0.03


def test_an_interval_at_no_level_is_refused():
    with pytest.raises(LensError, match="found level 1 "):
        load_null.share_interval(routed(random_choices(0, n_tokens=5)), level=1)


@pytest.mark.parametrize(("n_experts", "top_k"), [(8, 2), (40, 8)])
def test_even_counts_have_the_moments_of_even_choices(n_experts, top_k):
    counts = load_null.even_counts(50, top_k, n_experts, 1500, 0)
    p = top_k / n_experts
    np.testing.assert_array_equal(counts.sum(axis=1), 50 * top_k)
    np.testing.assert_allclose(counts.mean(axis=0), 50 * p, rtol=0.05)
    assert counts.var(axis=0).mean() == pytest.approx(50 * p * (1 - p), rel=0.06)


def test_random_choices_take_every_set_equally_often():
    found = load_null.random_choices(np.random.default_rng(0), 20_000, 3, 6)
    sets, counts = np.unique(np.sort(found, axis=1), axis=0, return_counts=True)
    assert len(sets) == 20
    np.testing.assert_allclose(counts, 1000, atol=5 * 1000**0.5)


def test_even_use_of_a_short_text_is_not_distinguishable_from_chance_and_a_favourite_is():
    even = load_null.even_use(routed(random_choices(3, n_layers=6, n_tokens=60)), draws=199)
    assert even.mean[0] < 7.9
    assert even.found() == 0
    uneven = random_choices(4, n_layers=2, n_tokens=60, weights=[8, 1, 1, 1, 1, 1, 1, 1])
    assert load_null.even_use(routed(uneven), draws=199).found() == 2


def test_p_of_even_use_is_uniform_on_even_choices():
    experts = random_choices(5, n_layers=400, n_tokens=80)
    p = load_null.even_use(routed(experts), draws=1999, times=np.ones(400)).p
    assert kstest(p, "uniform").pvalue > 0.001


# --- pairs ----------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [2, 3])
def test_the_spread_of_a_pair_given_the_loads_is_that_of_simulation(top_k):
    weights = [3, 2, 2, 1, 1, 1, 1, 0.7]
    experts = random_choices(0, n_layers=600, n_tokens=200, top_k=top_k, weights=weights)
    test = pair_test(coselection(routed(experts)))
    z = test.z[:, *UPPER]
    assert z.mean() == pytest.approx(0, abs=0.05)
    assert z.std() == pytest.approx(1, abs=0.04)


def test_p_of_pairs_is_calibrated_on_uneven_loads():
    weights = [3, 2, 2, 1, 1, 1, 1, 0.7]
    experts = random_choices(1, n_layers=300, n_tokens=300, weights=weights)
    p = pair_test(coselection(routed(experts))).p[:, *UPPER]
    for level in (0.01, 0.05, 0.2, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=0.2 * level + 0.003)


def test_a_planted_pair_is_the_finding_and_noise_has_none():
    experts = random_choices(2, n_layers=3, n_tokens=1500)
    assert np.nanmin(pair_test(coselection(routed(experts))).q) > 0.05
    experts[1, :120] = [2, 6]
    test = pair_test(coselection(routed(experts)))
    assert test.z[1, 2, 6] > 5
    assert np.unravel_index(np.nanargmin(test.q), test.q.shape) == (1, 2, 6)
    assert np.nanmin(test.q[[0, 2]]) > 0.05


def test_pairs_that_cannot_vary_have_no_p():
    test = pair_test(coselection(routed([[[0, 1], [0, 2], [0, 1], [0, 3]]], 5)))
    assert np.isnan(test.p).all()


def test_many_experts_are_tested_by_binomial_counts_with_about_the_same_answer(monkeypatch):
    experts = random_choices(3, n_layers=20, n_tokens=400)
    exact = pair_test(coselection(routed(experts)))
    monkeypatch.setattr("lens.traces.coselection.HELD_SETS", 1)
    rough = pair_test(coselection(routed(experts)))
    assert "binomial" in rough.method and "binomial" not in exact.method
    assert (rough.sd[:, *UPPER] >= exact.sd[:, *UPPER] * 0.999).all()
    assert np.mean(rough.p[:, *UPPER] <= 0.05) <= 0.05


def test_counts_of_parts_add_up_to_those_of_the_whole():
    experts = random_choices(4, n_layers=2, n_tokens=90)
    parts = pair_counts(experts[:, :30], 8) + pair_counts(experts[:, 30:], 8)
    whole, sum_of_parts = coselection(routed(experts)), coselection_of(parts, (90, 2))
    np.testing.assert_array_equal(sum_of_parts.counts, whole.counts)
    np.testing.assert_allclose(sum_of_parts.lift, whole.lift)


# --- repeats --------------------------------------------------------------------


def test_the_shuffled_mean_is_the_exact_mean_over_all_orders():
    experts = random_choices(0, n_layers=2, n_tokens=80, weights=[4, 2, 1, 1, 1, 1, 1, 1])
    exact, test = routing.repeat_rate(routed(experts)), repeat_test(experts, 8, draws=1999)
    np.testing.assert_allclose(test.first.value, exact.first)
    np.testing.assert_allclose(test.any.value, exact.any)
    np.testing.assert_allclose(test.first.mean, exact.shuffled_first, atol=0.005)
    np.testing.assert_allclose(test.any.mean, exact.shuffled_any, atol=0.005)


def test_runs_are_found_alternation_too_and_noise_is_not():
    noise = random_choices(1, n_layers=8, n_tokens=120)
    assert repeat_test(noise, 8, draws=199).any.found() == 0
    runs = np.repeat(random_choices(2, n_tokens=30), 4, axis=1)
    assert repeat_test(runs, 8, draws=199).first.p[0] <= 0.01
    alternating = np.tile([[0, 1], [2, 3]], (40, 1))[None]
    found = repeat_test(alternating, 8, draws=199).any
    assert found.value[0] == 0
    assert found.p[0] <= 0.01


def test_p_of_repeats_is_never_too_small_on_noise():
    p = np.array(
        [
            repeat_test(random_choices(seed, n_tokens=120), 8, draws=99, seed=seed).any.p[0]
            for seed in range(250)
        ]
    )
    for level in (0.02, 0.05, 0.1, 0.2, 0.5):
        assert np.mean(p <= level) <= level + 3 * np.sqrt(level * (1 - level) / 250)
    assert np.mean(p <= 0.5) > 0.35


def test_the_ends_of_texts_are_no_neighbours():
    experts = np.array([[[0, 1], [0, 2], [5, 6], [5, 7]]])
    found = repeat_test(experts, 8, groups=np.array([0, 0, 1, 1]), draws=19)
    assert found.first.value[0] == 1
    assert repeat_test(experts, 8, draws=19).first.value[0] == pytest.approx(2 / 3)
    with pytest.raises(LensError, match="without neighbours"):
        repeat_test(experts, 8, groups=np.arange(4))


def test_experts_beyond_the_first_machine_word_are_compared_too():
    experts = np.array([[[3, 200], [200, 5], [67, 3], [131, 195]]])
    found = repeat_test(experts, 256, draws=19)
    assert found.any.value[0] == pytest.approx(1 / 3)


# --- margins --------------------------------------------------------------------


def test_margins_of_normal_logits_are_not_distinguishable_from_chance():
    shape = margin_shape(normal_trace(0, 400, 6), draws=99)
    assert shape.test.found() == 0
    np.testing.assert_allclose(shape.quantiles[:, 2], shape.normal[:, 2], rtol=0.25)


def test_p_of_margins_is_uniform_for_normal_logits():
    p = [margin_shape(normal_trace(s, 60), draws=49, seed=s + 999).test.p[0] for s in range(200)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.065)
    assert kstest(p, "uniform").pvalue > 0.001


def test_tokens_in_two_groups_have_wider_margins_than_normal_logits():
    rng = np.random.default_rng(0)
    z = 0.3 * rng.standard_normal((1, 300, 8))
    z[0, :150, :2] += 3
    z[0, 150:, 4:6] += 3
    found = margin_shape(routed(np.argsort(-z, axis=-1)[..., :2], 8, z), draws=99).test
    assert found.value[0] > found.high[0]
    assert found.p[0] <= 0.02


def test_margin_quantiles_are_those_of_the_margins():
    trace = normal_trace(1)
    np.testing.assert_allclose(
        margin_shape(trace, draws=49).quantiles[0],
        np.quantile(routing.margin(trace)[0], [0.05, 0.25, 0.5, 0.75, 0.95]),
    )


def test_histogram_counts_every_token_once():
    edges, counts, expected = margin_histogram(normal_trace(2, 300), 0, bins=20)
    assert len(edges) == 21
    assert counts.sum() == 300
    assert expected.sum() == pytest.approx(300)
    assert np.corrcoef(counts, expected)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("logits", "top_k", "message"),
    [
        (np.zeros((1, 5, 4)), 2, "do not vary"),
        (np.zeros((1, 2, 4)), 2, "found 2 tokens"),
        (np.zeros((1, 9, 2)), 2, "all 2 experts are used"),
    ],
)
def test_margins_without_anything_to_compare_are_refused(logits, top_k, message):
    experts = np.argsort(-logits, axis=-1)[..., :top_k]
    with pytest.raises(LensError, match=message):
        margin_shape(routed(experts, logits.shape[2], logits))
