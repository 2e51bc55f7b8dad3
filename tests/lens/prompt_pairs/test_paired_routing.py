"""Differences of two runs are found where they are planted, elsewhere as seldom as chance says."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens.errors import LensError
from lens.prompt_pairs.alignment import align, same_place
from lens.prompt_pairs.fading import fading, since_change
from lens.prompt_pairs.next_token_change import (
    expected_tokens,
    next_token_change,
    variation_bounds,
)
from lens.prompt_pairs.paired_routing import QUANTITIES, difference, kept_experts, paired
from lens.prompt_pairs.paired_tests import (
    agreement_test,
    difference_test,
    load_difference,
)
from lens.prompt_pairs.token_blocks import block_orders, flipped_signs


def run_of(logits: np.ndarray, top_k: int = 2) -> SimpleNamespace:
    """A run with these router logits [L, T, E]."""
    probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1, kind="stable")[..., :top_k]
    return SimpleNamespace(
        router_logits=logits,
        router_probs=probs,
        experts=experts,
        gates=np.take_along_axis(probs, experts, axis=-1),
        choice_values=None,
    )


def noise(shape: tuple[int, ...], rng: np.random.Generator, reach: float = 0.0) -> np.ndarray:
    """Unit normal along the tokens (axis 1), each `reach` times the one before plus new noise."""
    out = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        out[:, t] = reach * out[:, t - 1] + np.sqrt(1 - reach**2) * out[:, t]
    return out


def two_runs(seed: int, n_tokens: int = 96, *, n_layers: int = 2, reach: float = 0.0, shift=0.0):
    """The same text in two runs whose logits share half of their variance.

    `shift` adds to the second run's first expert.
    """
    rng = np.random.default_rng(seed)
    shape = (n_layers, n_tokens, 6)
    common = noise(shape, rng)
    first, second = (common + noise(shape, rng, reach) for _ in range(2))
    second[..., 0] += shift
    return paired(run_of(first), run_of(second), same_place(n_tokens), leave_out_start=False)


# --- which tokens are compared ------------------------------------------------------


def test_compared_are_the_same_tokens_after_the_common_start():
    a, b = np.array([1, 2, 3, 4, 5, 6]), np.array([1, 2, 9, 4, 6])
    runs = paired(run_of(np.zeros((1, 6, 3))), run_of(np.zeros((1, 5, 3))), align(a, b))
    assert runs.common_start == 2
    at, other = runs.at
    assert a[at].tolist() == b[other].tolist() == [4, 6]


def test_an_intervention_compares_every_token():
    run = run_of(np.zeros((1, 4, 3)))
    assert len(paired(run, run, same_place(4), leave_out_start=False).pairs) == 4
    assert len(paired(run, run, same_place(4)).pairs) == 0


def test_runs_of_other_models_or_an_alignment_of_other_texts_are_refused():
    run = run_of(np.zeros((2, 4, 3)))
    with pytest.raises(LensError, match="2 layers of 3 experts beside 2 of 5"):
        paired(run, run_of(np.zeros((2, 4, 5))), same_place(4))
    with pytest.raises(LensError, match="second: 3 tokens, but 4 are aligned"):
        paired(run, run_of(np.zeros((2, 3, 3))), same_place(4))


@pytest.mark.parametrize("what", list(QUANTITIES))
def test_differences_stand_where_the_same_token_does_and_nowhere_else(what):
    rng = np.random.default_rng(1)
    a, b = np.array([1, 2, 3, 7]), np.array([5, 1, 3, 8])
    first, second = run_of(rng.normal(size=(3, 4, 6))), run_of(rng.normal(size=(3, 4, 6)))
    runs = paired(first, second, align(a, b))
    found = difference(runs, what)
    for pair, (i, j) in enumerate(zip(runs.alignment.first, runs.alignment.second, strict=True)):
        if i >= 0 and j >= 0 and a[i] == b[j]:
            expected = QUANTITIES[what](first)[:, i] - QUANTITIES[what](second)[:, j]
            np.testing.assert_allclose(found[:, pair], expected)
        else:
            assert np.isnan(found[:, pair]).all()
    with pytest.raises(LensError, match="expected one of margin"):
        difference(runs, "norm")


def test_kept_experts_counts_common_ones_and_a_lone_forced_expert_once():
    first, second = run_of(np.zeros((1, 3, 4))), run_of(np.zeros((1, 3, 4)))
    first.experts = np.array([[[0, 1], [0, 1], [0, 1]]])
    second.experts = np.array([[[1, 0], [1, 2], [3, -1]]])
    runs = paired(first, second, same_place(3), leave_out_start=False)
    assert kept_experts(runs)[0].tolist() == [1, 0.5, 0]
    runs.first.experts = np.array([[[3, -1]] * 3])
    runs.second.experts = np.array([[[3, -1], [2, -1], [3, 2]]])
    assert kept_experts(runs)[0].tolist() == [1, 0, 0.5]


# --- flipped signs ------------------------------------------------------------------


def test_few_blocks_have_all_their_patterns_once_and_exact_p_values():
    signs, exact = flipped_signs(4, 99, 0)
    assert exact
    assert len(np.unique(signs, axis=0)) == 15
    assert not (signs == 1).all(axis=1).any()
    assert not flipped_signs(7, 99, 0)[1]
    runs = two_runs(0, 32, shift=1.5)
    found = difference_test(runs, "entropy", block=8, draws=999)
    per_block = difference(runs, "entropy").reshape(2, 4, 8).sum(axis=2)
    for layer in range(2):
        ways = [abs(per_block[layer] @ s) for s in itertools.product([1, -1], repeat=4)]
        reached = np.mean(np.array(ways) >= abs(per_block[layer].sum()) - 1e-12)
        assert found.test.p[layer] == pytest.approx(reached)
    assert found.smallest_p == 2 / 16
    assert "all 16 ways" in found.test.method


def test_a_planted_difference_is_found_in_its_layer_alone():
    rng = np.random.default_rng(3)
    base = rng.standard_normal((3, 160, 6))
    change = 0.3 * rng.standard_normal((3, 160, 6))
    change[0] = 0
    change[2] *= 1
    other = base + change
    other[2] *= 2  # sharper gates
    runs = paired(run_of(base), run_of(other), same_place(160), leave_out_start=False)
    found = difference_test(runs, "entropy")
    assert np.isnan(found.test.q[0]) and found.test.value[0] == 0
    assert found.test.q[1] > 0.05
    assert found.test.q[2] < 0.01 and found.test.value[2] > 0
    assert found.p < 0.01
    assert (found.n_pairs, found.blocks.count, found.blocks.length) == (160, 20, 8)


def test_in_layers_that_an_intervention_changes_nothing_is_tested():
    rng = np.random.default_rng(4)
    base = rng.standard_normal((3, 96, 6))
    other = base + 0.3 * rng.standard_normal((3, 96, 6))
    other[1] *= 3
    options = {"leave_out_start": False, "changed_layers": (1,)}
    runs = paired(run_of(base), run_of(other), same_place(96), **options)
    found = difference_test(runs, "entropy")
    assert np.isnan(found.test.q).tolist() == [False, True, False]
    assert found.p > 0.01
    whole = difference_test(two_runs(0), "entropy")
    assert not np.isnan(whole.test.q).any()
    assert np.isnan(load_difference(runs).q[1]).all()
    assert not np.isnan(load_difference(runs).q[[0, 2]]).any()
    every = paired(
        run_of(base), run_of(other), same_place(96), leave_out_start=False, changed_layers=range(3)
    )
    assert np.isnan(difference_test(every, "entropy").p)


def false_alarms(block: int, reach: float, texts: int = 400) -> float:
    """Share of texts without a difference whose p over all layers is at most 0.05."""
    p = [
        difference_test(
            two_runs(seed, 96, reach=reach), "top1_prob", block=block, draws=199, seed=seed
        ).p
        for seed in range(texts)
    ]
    return float(np.mean(np.array(p) <= 0.05))


def test_p_values_of_texts_alike_are_small_as_often_as_they_say():
    share = false_alarms(8, 0.6)
    assert 0.025 <= share <= 0.085  # 95 % of 400 draws at 5 %: 0.029 to 0.071


def test_tokens_taken_as_independent_raise_false_alarms_that_blocks_do_not():
    assert false_alarms(1, 0.9, 200) > 0.15
    assert false_alarms(16, 0.9, 200) < 0.12


def test_neighbours_tells_how_far_differences_run_on():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((1, 400, 6))

    def neighbours(reach: float) -> float:
        warmer = logits * np.exp(0.4 * noise((1, 400, 1), rng, reach))
        runs = paired(run_of(logits), run_of(warmer), same_place(400), leave_out_start=False)
        return difference_test(runs, "entropy").blocks.correlation

    assert abs(neighbours(0)) < 0.12
    assert 0.4 < neighbours(0.8)


def test_nothing_to_compare_is_said():
    run = run_of(np.zeros((1, 4, 3)))
    runs = paired(run, run, same_place(4))
    for test in (
        lambda: difference_test(runs, "margin"),
        lambda: agreement_test(runs),
        lambda: load_difference(runs),
    ):
        with pytest.raises(LensError, match="after the 4 of their common start"):
            test()
    with pytest.raises(LensError, match="Block: found 0"):
        difference_test(two_runs(0), "margin", block=0)


# --- loads --------------------------------------------------------------------------


def test_load_differences_are_shares_of_the_compared_tokens_and_sum_to_nothing():
    runs = two_runs(5, shift=1.0)
    found = load_difference(runs)
    np.testing.assert_allclose(found.difference.sum(axis=1), 0, atol=1e-12)
    counts = np.stack(
        [np.bincount(layer.ravel(), minlength=6) for layer in runs.second.experts]
    ) / (2 * 96)
    np.testing.assert_allclose(found.second, counts)
    np.testing.assert_allclose(found.first - found.second, found.difference, atol=1e-12)
    assert (found.q[:, 0] < 0.05).all() and (found.difference[:, 0] < 0).all()


def test_loads_of_texts_alike_are_called_different_as_seldom_as_they_should_be():
    p = [load_difference(two_runs(s, 96), draws=199, seed=s).p.ravel() for s in range(150)]
    share = np.mean(np.concatenate(p) <= 0.05)
    assert 0.01 <= share <= 0.065  # few tokens change an expert: equal sums make p large


def test_experts_that_no_token_changes_to_or_from_are_not_asked_about():
    logits = np.random.default_rng(0).standard_normal((1, 64, 6))
    logits[..., 5] = -50
    other = logits.copy()
    other[..., 0] += 1
    runs = paired(run_of(logits), run_of(other), same_place(64), leave_out_start=False)
    assert np.isnan(load_difference(runs).q[0, 5])


# --- agreement ----------------------------------------------------------------------


def test_agreement_of_one_run_with_itself_is_one_and_rare():
    run = two_runs(0).first
    runs = paired(run, run, same_place(96), leave_out_start=False)
    found = agreement_test(runs)
    assert found.value == 1 and found.changed == 0 and (found.same == 1).all()
    assert found.p == pytest.approx(1 / (1 + found.test.draws))


def test_agreement_by_chance_is_what_the_loads_of_both_runs_give():
    runs = two_runs(1, 800, n_layers=1)
    found = agreement_test(runs, block=1)
    member = [
        (run.experts[0, :, :, None] == np.arange(6)).any(axis=1).mean(axis=0)
        for run in (runs.first, runs.second)
    ]
    assert found.test.mean[0] == pytest.approx((member[0] @ member[1]) / 2, abs=0.005)
    assert found.test.low[0] < found.test.mean[0] < found.test.high[0] < found.test.value[0]


def test_unrelated_runs_agree_above_chance_as_seldom_as_they_should():
    rng = np.random.default_rng(2)
    p = []
    for seed in range(300):
        a, b = (run_of(noise((1, 96, 6), rng, 0.6)) for _ in range(2))
        runs = paired(a, b, same_place(96), leave_out_start=False)
        p.append(agreement_test(runs, draws=199, seed=seed).p)
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09


@given(st.integers(1, 40), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_every_order_holds_every_place_once_and_keeps_most_neighbours(n, block):
    for order in block_orders(n, block, 5, 0):
        assert sorted(order.tolist()) == list(range(n))
        apart = np.count_nonzero((np.diff(order) % n) != 1 % n)
        assert apart <= -(-n // block)


# --- next tokens --------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(0.05, 3))
def test_the_bounds_hold_the_distance_of_the_whole_distributions(seed, listed, spread):
    rng = np.random.default_rng(seed)
    both = np.exp(rng.standard_normal((2, 12)) * spread)
    both[1] = np.where(rng.random() < 0.3, both[0] * np.exp(0.1 * rng.random(12)), both[1])
    both /= both.sum(axis=1, keepdims=True)
    order = np.argsort(-both, axis=1)[:, :listed]
    low, high = variation_bounds(order[0], both[0][order[0]], order[1], both[1][order[1]])
    exact = np.abs(both[0] - both[1]).sum() / 2
    assert low - 1e-9 <= exact <= high + 1e-9
    if listed == 12:
        assert low == pytest.approx(exact) and high == pytest.approx(exact)


def expecting(ids: list[list[int]], probs: list[list[float]]) -> SimpleNamespace:
    return SimpleNamespace(candidates=np.array(ids), candidate_probs=np.array(probs))


def test_lists_without_a_common_token_are_far_apart_and_equal_ones_need_not_be():
    low, high = variation_bounds(
        np.array([1, 2]), np.array([0.6, 0.3]), np.array([3, 4]), np.array([0.7, 0.2])
    )
    assert low == pytest.approx(0.8) and high == 1  # at most 0.1 of the first's 0.9 is there
    low, high = variation_bounds(np.array([1]), np.array([0.6]), np.array([1]), np.array([0.6]))
    assert low == 0 and high == pytest.approx(0.4)


def test_change_of_next_tokens_is_small_beside_that_of_unrelated_places():
    rng = np.random.default_rng(0)
    runs = two_runs(0, 64)
    ids = rng.permuted(np.tile(np.arange(50), (64, 1)), axis=1)[:, :5]
    probs = np.tile([0.4, 0.2, 0.1, 0.05, 0.05], (64, 1))
    one, other = expecting(ids, probs), expecting(ids, probs[:, ::1] * 0.9)
    found = next_token_change(runs, one, other)
    assert found.high.shape == found.low.shape == (64,)
    assert found.value < found.mean_low and found.p == pytest.approx(1 / (1 + found.draws))
    assert not found.likeliest.any()
    with pytest.raises(LensError, match="0 and 5 candidates"):
        next_token_change(runs, expecting(np.zeros((64, 0)), np.zeros((64, 0))), one)


def test_expected_tokens_list_both_and_bound_what_one_does_not_list():
    one = expecting([[7, 8]], [[0.5, 0.3]])
    other = expecting([[8, 9]], [[0.6, 0.1]])
    found = expected_tokens(one, other, 0, 0, [{7: "a", 8: "b"}])
    assert found.ids.tolist() == [8, 7, 9]
    assert found.pieces == ["b", "a", "id 9"]
    np.testing.assert_array_equal(found.before, [0.3, 0.5, np.nan])
    np.testing.assert_array_equal(found.after, [0.6, np.nan, 0.1])
    assert found.most_before == pytest.approx(0.2) and found.most_after == pytest.approx(0.1)


# --- fading -------------------------------------------------------------------------


def test_distance_counts_from_the_last_change():
    found = align(np.array([1, 2, 3, 4, 5, 6]), np.array([1, 2, 9, 4, 6]))
    assert "".join("=xdi"[k] for k in found.kind) == "==x=d="
    assert since_change(found.kind).tolist() == [1, 2, 0, 1, 0, 1]


def fading_runs(seed: int, n_tokens: int, along: np.ndarray):
    """Two texts whose first token differs and whose logits differ by `along` times noise."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((4, n_tokens, 6))
    other = base + along[:, None] * rng.standard_normal((4, n_tokens, 6))
    words = np.arange(n_tokens)
    changed = np.where(words == 0, 999, words)
    return paired(run_of(base), run_of(other), align(words, changed))


def test_a_difference_that_fades_is_found_and_one_that_stays_is_not():
    found = fading(fading_runs(0, 97, np.linspace(2, 0, 97)))
    assert found.correlation > 0.7 and found.p < 0.02
    assert found.low < 0 < found.high < found.correlation
    p = [fading(fading_runs(s, 97, np.full(97, 0.7)), draws=99, seed=s).p for s in range(200)]
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.09


def test_fading_of_too_few_or_of_equal_tokens_is_not_asked():
    with pytest.raises(LensError, match="5 tokens to compare; expected at least 8"):
        fading(fading_runs(0, 6, np.ones(6)))
    with pytest.raises(LensError, match="no order to look for"):
        fading(fading_runs(0, 40, np.zeros(40)))
