import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from lens.errors import LensError
from lens.traces import routing
from tests.lens.traces.choices import random_choices, routed, routed_logits

# --- load -----------------------------------------------------------------------


def test_load_counts_every_choice_of_every_token():
    trace = routed([[[0, 1], [0, 2], [0, 1]], [[7, 6], [5, 4], [3, 2]]])
    np.testing.assert_allclose(
        routing.load(trace), [[3 / 6, 2 / 6, 1 / 6, 0, 0, 0, 0, 0], [0, 0, *[1 / 6] * 6]]
    )


def test_load_of_a_layer_sums_to_one():
    np.testing.assert_allclose(routing.load(routed(random_choices(0, n_layers=5))).sum(1), 1)


def test_load_ignores_the_order_of_tokens_and_of_choices():
    experts = random_choices(1, n_layers=2, n_tokens=50)
    shuffled = experts[:, np.random.default_rng(0).permutation(50), ::-1]
    np.testing.assert_array_equal(routing.load(routed(experts)), routing.load(routed(shuffled)))


def test_prompt_and_generated_tokens_are_counted_apart():
    trace = routed([[[0, 1], [0, 2], [3, 4]]], prompt_length=2)
    prompt = routing.load(trace, tokens=routing.prompt_tokens(trace))
    made = routing.load(trace, tokens=routing.generated_tokens(trace))
    np.testing.assert_allclose(prompt[0, :5], [0.5, 0.25, 0.25, 0, 0])
    np.testing.assert_allclose(made[0, :5], [0, 0, 0, 0.5, 0.5])
    np.testing.assert_allclose(routing.load(trace), (4 * prompt + 2 * made) / 6)


@pytest.mark.parametrize("statistic", ["load", "effective_experts", "coselection", "paths"])
def test_a_part_without_tokens_has_no_statistics(statistic):
    trace = routed(random_choices(0, n_layers=2, n_tokens=4))
    with pytest.raises(LensError, match="0 tokens in this part .* at least 1"):
        getattr(routing, statistic)(trace, tokens=routing.generated_tokens(trace))


def test_the_load_band_of_one_token_allows_all_or_nothing():
    assert routing.load_interval(1, 2, 8) == (0.0, 0.5)


def test_the_load_band_is_the_binomial_quantile_worked_by_hand():
    # 4 tokens, top 1 of 2: Binomial(4, 1/2) has 1/16 at 0 and at 4, 5/16 up to 1.
    assert routing.load_interval(4, 1, 2, level=0.90) == (0.0, 1.0)
    assert routing.load_interval(4, 1, 2, level=0.80) == (0.25, 0.75)


@pytest.mark.parametrize(
    ("n_tokens", "top_k", "n_experts"), [(64, 2, 8), (500, 2, 8), (100, 4, 60)]
)
def test_the_load_band_covers_what_it_says_and_little_more(n_tokens, top_k, n_experts):
    rng = np.random.default_rng(0)
    keys = rng.random((1500, n_tokens, n_experts))
    chosen = np.argpartition(keys, top_k, axis=-1)[..., :top_k]
    share = (chosen == 0).any(-1).sum(-1) / (n_tokens * top_k)
    low, high = routing.load_interval(n_tokens, top_k, n_experts)
    outside_low, outside_high = (share < low).mean(), (share > high).mean()
    assert outside_low < 0.025 + 0.012
    assert outside_high < 0.025 + 0.012
    step = 1 / (n_tokens * top_k)
    assert (share <= low).mean() > 0.025 - 0.012, "the band could begin higher"
    assert (share >= high).mean() > 0.025 - 0.012, "the band could end lower"
    assert low + step < 1 / n_experts < high - step


def test_a_band_for_many_experts_together_is_wider():
    low, high = routing.load_interval(200, 2, 8)
    many_low, many_high = routing.load_interval(200, 2, 8, comparisons=96)
    assert many_low < low < high < many_high


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("n_tokens", "top_k", "n_experts"), [(7, 1, 3), (512, 2, 8), (90, 8, 256)])
def test_the_load_band_agrees_with_an_independent_binomial(level, n_tokens, top_k, n_experts):
    p = top_k / n_experts
    chance = [
        math.comb(n_tokens, k) * p**k * (1 - p) ** (n_tokens - k) for k in range(n_tokens + 1)
    ]
    tail = (1 - level) / 2
    low = next(k for k in range(n_tokens + 1) if math.fsum(chance[: k + 1]) >= tail)
    high = next(k for k in range(n_tokens + 1) if math.fsum(chance[k + 1 :]) <= tail)
    found = routing.load_interval(n_tokens, top_k, n_experts, level=level)
    np.testing.assert_allclose(found, np.array([low, high]) / (n_tokens * top_k))


def test_a_band_of_no_tokens_is_refused():
    with pytest.raises(LensError, match="0 tokens"):
        routing.load_interval(0, 2, 8)


def test_effective_experts_runs_from_the_choices_of_a_token_to_all_experts():
    same = routed([[[3, 5]] * 10])
    even = routed([[[0, 1], [2, 3], [4, 5], [6, 7]]])
    np.testing.assert_allclose(routing.effective_experts(same), [2])
    np.testing.assert_allclose(routing.effective_experts(even), [8])


def test_effective_experts_falls_short_by_chance_as_documented():
    experts = random_choices(3, n_layers=400, n_tokens=100)
    short = 8 - routing.effective_experts(routed(experts)).mean()
    assert short == pytest.approx(8 * (8 - 2) / (2 * 100 * 2), rel=0.1)


# --- closeness ------------------------------------------------------------------


def test_entropy_is_zero_for_certainty_and_log_n_for_indifference():
    logits = np.zeros((1, 2, 8))
    logits[0, 0, 3] = 1000
    trace = SimpleNamespace(router_probs=np.array([[[0, 0, 0, 1, 0, 0, 0, 0], [1 / 8] * 8]]))
    np.testing.assert_allclose(routing.entropy(trace), [[0, math.log(8)]])


def test_margin_and_lead_of_a_worked_example():
    trace = routed([[[2, 0]]], 4, np.array([[[1.0, -1.0, 3.0, 0.25]]]))
    np.testing.assert_allclose(routing.margin(trace), [[0.75]])
    np.testing.assert_allclose(routing.lead(trace), [[2.0]])


@pytest.mark.parametrize("top_k", [1, 2, 3, 7])
def test_margin_is_the_least_rise_of_an_unchosen_expert_that_changes_the_choice(top_k):
    trace = routed_logits(5, top_k=top_k)
    margin = routing.margin(trace)
    runner_up = np.argsort(-trace.router_logits, axis=-1)[..., top_k, None]

    def chosen_after(rise):
        logits = trace.router_logits.copy()
        value = np.take_along_axis(logits, runner_up, -1) + rise[..., None]
        np.put_along_axis(logits, runner_up, value, -1)
        return np.sort(np.argsort(-logits, axis=-1)[..., :top_k], axis=-1)

    before = np.sort(trace.experts, axis=-1)
    np.testing.assert_array_equal(chosen_after(margin * 0.999), before)
    assert (chosen_after(margin * 1.001) != before).any(axis=-1).all()


def test_margin_and_lead_ignore_a_number_added_to_all_logits():
    trace = routed_logits(1)
    moved = routed(trace.experts, 8, trace.router_logits + 7)
    np.testing.assert_allclose(routing.margin(moved), routing.margin(trace), atol=1e-12)
    np.testing.assert_allclose(routing.lead(moved), routing.lead(trace), atol=1e-12)


def test_margin_without_a_choice_is_refused():
    with pytest.raises(LensError, match="all 2 experts are used by every token"):
        routing.margin(routed([[[0, 1]]], 2))


def test_gate_share_sums_to_one_and_follows_the_lead():
    trace = routed_logits(2)
    share = routing.gate_share(trace)
    np.testing.assert_allclose(share.sum(-1), 1)
    np.testing.assert_allclose(share[..., 0], 1 / (1 + np.exp(-routing.lead(trace))))


# --- pairs ----------------------------------------------------------------------


def test_coselection_counts_pairs_and_on_the_diagonal_single_choices():
    pairs = routing.coselection(routed([[[0, 1], [1, 0], [1, 2]]], 4))
    assert pairs.n_tokens == 3
    np.testing.assert_array_equal(
        pairs.counts[0], [[2, 2, 0, 0], [2, 3, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    )


def test_even_use_expects_one_of_28_for_every_pair_of_8():
    experts = np.array([list(itertools.combinations(range(8), 2))] * 2)
    pairs = routing.coselection(routed(experts))
    off = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(pairs.expected[:, off], 1)
    np.testing.assert_allclose(pairs.lift[:, off], 1)
    assert np.isnan(pairs.lift[:, ~off]).all()


@pytest.mark.parametrize("top_k", [2, 3, 4])
def test_expected_pairs_agree_with_the_loads(top_k):
    weights = [5, 3, 2, 1, 1, 0.5, 0.2, 0.05]
    experts = random_choices(0, n_layers=3, n_tokens=300, top_k=top_k, weights=weights)
    pairs = routing.coselection(routed(experts))
    single = pairs.counts.diagonal(axis1=1, axis2=2)
    np.testing.assert_allclose(pairs.expected.diagonal(axis1=1, axis2=2), single)
    others = pairs.expected.sum(axis=2) - single
    np.testing.assert_allclose(others, (top_k - 1) * single, rtol=1e-6)
    np.testing.assert_allclose(pairs.expected, pairs.expected.transpose(0, 2, 1))


@pytest.mark.parametrize("top_k", [2, 3])
def test_uneven_choices_without_preferred_pairs_have_lift_one(top_k):
    weights = [4, 3, 2, 2, 1, 1, 1, 0.5]
    experts = random_choices(1, n_tokens=200_000, top_k=top_k, weights=weights)
    lift = routing.coselection(routed(experts)).lift[0]
    np.testing.assert_allclose(lift[~np.eye(8, dtype=bool)], 1, atol=0.06)


def test_a_planted_pair_stands_out_from_its_loads():
    experts = random_choices(2, n_tokens=2000)
    experts[0, :300] = [2, 6]
    lift = routing.coselection(routed(experts)).lift[0]
    off = np.triu(np.ones((8, 8), bool), 1)
    assert lift[2, 6] == lift[off].max() > 2
    assert np.sort(lift[off])[-2] < 0.8 * lift[2, 6]


def test_pairs_that_cannot_occur_have_no_lift():
    # Expert 0 is in every choice, so no two others ever are together; 3 is never used.
    pairs = routing.coselection(routed([[[0, 1], [0, 2], [2, 0]]], 4))
    np.testing.assert_allclose(pairs.lift[0, 0, 1:3], 1)
    assert np.isnan(pairs.lift[0, 1, 2])
    assert np.isnan(pairs.lift[0, 3]).all()


def test_one_expert_a_token_has_no_pairs():
    assert np.isnan(routing.coselection(routed([[[0], [1]]], 4)).lift).all()


def test_an_expert_in_nearly_every_choice_keeps_the_expected_pairs_exact():
    experts = np.array([[[0, 1 + i % 7] for i in range(700)]])
    experts[0, 0] = [1, 2]
    pairs = routing.coselection(routed(experts))
    np.testing.assert_allclose(pairs.expected[0].sum(1), 2 * pairs.counts[0].diagonal(), rtol=1e-5)


def test_relabelling_the_experts_relabels_the_pairs():
    experts = random_choices(4, n_tokens=60, weights=[3, 2, 1, 1, 1, 1, 1, 1])
    new_name = np.random.default_rng(1).permutation(8)
    before = routing.coselection(routed(experts))
    after = routing.coselection(routed(new_name[experts]))
    np.testing.assert_allclose(after.lift[0][np.ix_(new_name, new_name)], before.lift[0], rtol=1e-6)


# --- order ----------------------------------------------------------------------


def test_chance_of_a_repeat_is_12_5_percent_and_46_4_percent_for_two_of_eight():
    rate = routing.repeat_rate(routed(random_choices(0, n_tokens=3)))
    assert rate.chance_first == 0.125
    assert rate.chance_any == pytest.approx(13 / 28)
    assert round(100 * rate.chance_any, 1) == 46.4


@pytest.mark.parametrize(("n_experts", "top_k"), [(8, 2), (8, 1), (6, 3), (5, 4)])
def test_chance_of_a_repeat_is_met_by_even_independent_choices(n_experts, top_k):
    experts = random_choices(0, n_tokens=40_000, n_experts=n_experts, top_k=top_k)
    rate = routing.repeat_rate(routed(experts, n_experts))
    assert rate.first[0] == pytest.approx(rate.chance_first, abs=0.01)
    assert rate.any[0] == pytest.approx(rate.chance_any, abs=0.01)


def test_repeats_are_counted_between_neighbours_only():
    rate = routing.repeat_rate(routed([[[0, 1], [0, 2], [2, 3], [5, 6], [0, 1]]]))
    np.testing.assert_allclose(rate.first, [1 / 4])
    np.testing.assert_allclose(rate.any, [2 / 4])


def test_the_shuffled_rates_are_the_mean_over_all_orders():
    experts = random_choices(7, n_tokens=5, weights=[5, 3, 1, 1, 1, 1, 1, 1])
    rate = routing.repeat_rate(routed(experts))
    orders = [
        routing.repeat_rate(routed(experts[:, list(order)]))
        for order in itertools.permutations(range(5))
    ]
    np.testing.assert_allclose(rate.shuffled_first, np.mean([o.first for o in orders], axis=0))
    np.testing.assert_allclose(rate.shuffled_any, np.mean([o.any for o in orders], axis=0))


def test_uneven_loads_raise_the_shuffled_rate_but_not_what_exceeds_it():
    experts = random_choices(8, n_tokens=20_000, weights=[6, 6, 1, 1, 1, 1, 1, 1])
    rate = routing.repeat_rate(routed(experts))
    assert rate.first[0] > rate.chance_first + 0.05
    assert rate.first[0] == pytest.approx(rate.shuffled_first[0], abs=0.015)
    assert rate.any[0] == pytest.approx(rate.shuffled_any[0], abs=0.015)


def test_a_repeat_needs_two_tokens():
    with pytest.raises(LensError, match="1 tokens in this part .* at least 2"):
        routing.repeat_rate(routed([[[0, 1]]]))


# --- paths ----------------------------------------------------------------------


def test_paths_count_first_choices_of_neighbouring_layers_of_the_list():
    experts = [[[0, 1], [1, 0], [0, 2]], [[2, 0], [2, 1], [1, 0]], [[1, 0], [1, 2], [0, 1]]]
    found = routing.paths(routed(experts, 3), [0, 2])
    assert found.layers == (0, 2)
    np.testing.assert_array_equal(found.counts, [[[1, 1, 0], [0, 1, 0], [0, 0, 0]]])
    np.testing.assert_allclose(found.expected, [[[2 / 3, 4 / 3, 0], [1 / 3, 2 / 3, 0], [0, 0, 0]]])


def test_paths_follow_all_layers_unless_told():
    found = routing.paths(routed(random_choices(0, n_layers=5, n_tokens=30)))
    assert found.counts.shape == (4, 8, 8)
    np.testing.assert_array_equal(found.counts.sum(axis=(1, 2)), 30)
    np.testing.assert_array_equal(found.counts[:-1].sum(axis=1), found.counts[1:].sum(axis=2))


@pytest.mark.parametrize("layers", [[], [0], [0, 3], [-1, 0]])
def test_paths_of_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(LensError, match="at least two, from 0 to 2"):
        routing.paths(routed(random_choices(0, n_layers=3, n_tokens=5)), layers)
