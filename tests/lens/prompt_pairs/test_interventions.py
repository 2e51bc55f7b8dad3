"""Effects of interventions beside those of a layer's other experts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lens.errors import LensError
from lens.prompt_pairs import interventions as what_if


def run(experts):
    return SimpleNamespace(experts=np.asarray(experts))


def test_overlap_counts_the_experts_in_common_whatever_their_order():
    a = run([[[0, 1], [2, 3], [4, 5]]])
    b = run([[[1, 0], [3, 6], [6, 7]]])
    np.testing.assert_array_equal(what_if.overlap(a, b), [[1, 0.5, 0]])
    np.testing.assert_array_equal(what_if.moved(a, b), [2 / 3])
    np.testing.assert_array_equal(what_if.overlap(a, a), np.ones((1, 3)))


def test_an_empty_slot_is_no_expert_in_common():
    one, two = run([[[3, -1]]]), run([[[3, 5]]])
    assert what_if.overlap(one, one) == 1
    assert what_if.overlap(one, two) == what_if.overlap(two, one) == 0.5


def test_runs_of_different_texts_are_refused():
    with pytest.raises(LensError, match="runs of the same tokens"):
        what_if.overlap(run(np.zeros((2, 3, 2))), run(np.zeros((2, 4, 2))))


def test_use_is_the_share_of_tokens_that_have_the_expert():
    trace = run([[[0, 1], [2, 1], [2, 3]]])
    assert what_if.use(trace, 0, 1) == pytest.approx(2 / 3)
    assert what_if.use(trace, 0, 7) == 0


def test_the_place_among_others_counts_ties_against_the_finding():
    found = what_if.among_others(3.0, np.array([1.0, 3.0, 4.0]))
    assert (found.rank, found.p) == (3, 3 / 4)
    best = what_if.among_others(5.0, np.array([1.0, 3.0, 4.0]))
    assert (best.rank, best.p) == (1, 1 / 4)
    with pytest.raises(LensError, match="other expert"):
        what_if.among_others(1.0, np.array([]))


def test_p_among_others_is_what_it_says_for_an_expert_like_the_others():
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((4000, 8))
    p = np.array([what_if.among_others(row[0], row[1:]).p for row in draws])
    for level in (1 / 8, 2 / 8, 4 / 8):
        assert np.mean(p <= level) == pytest.approx(level, abs=0.02)


def test_the_other_choice_is_an_expert_of_the_same_token():
    rng = np.random.default_rng(3)
    experts = np.argsort(rng.random((2, 400, 8)), axis=-1)[..., :3]
    trace = run(experts)
    found = what_if.other_choice(trace, 1, 5)
    for token, other in zip(experts[1], found, strict=True):
        assert (other in token and other != 5) if 5 in token else other == -1
    first = experts[1, :, 0] == 5
    share = np.mean(found[first] == experts[1, first, 1])
    assert share == pytest.approx(0.5, abs=0.15)  # either of the two others
    np.testing.assert_array_equal(found, what_if.other_choice(trace, 1, 5))


def test_a_token_with_one_expert_has_no_other_choice():
    assert what_if.other_choice(run([[[4], [5]]]), 0, 5).tolist() == [-1, -1]
    assert what_if.other_choice(run([[[5, -1]]]), 0, 5).tolist() == [-1]


def test_the_share_of_the_mix_is_the_gate_over_those_of_the_chosen():
    trace = run([[[0, 1], [2, 0], [3, -1]]])
    trace.gates = np.array([[[0.6, 0.2], [0.5, 0.1], [0.4, 0.0]]])
    share = what_if.mix_share(trace, 0, np.array([0, 0, 3]))
    np.testing.assert_allclose(share, [0.75, 1 / 6, 1])
    assert np.isnan(what_if.mix_share(trace, 0, np.array([5, 5, -1]))).all()


def test_weight_is_the_mean_share_of_the_mix():
    trace = run([[[0, 1], [2, 0], [3, -1]]])
    trace.gates = np.array([[[0.6, 0.2], [0.5, 0.1], [0.4, 0.9]]])
    trace.router_logits = np.zeros((1, 3, 5))
    expected = np.array([0.75 + 1 / 6, 0.25, 5 / 6, 1, 0]) / 3
    np.testing.assert_allclose(what_if.weight(trace), expected[None])


def test_same_tokens_find_a_planted_difference_and_say_the_smallest_p_there_can_be():
    rng = np.random.default_rng(4)
    base = rng.exponential(size=80)
    found = what_if.beside_same_tokens(base + 0.5, base)
    assert (found.value - found.instead) == pytest.approx(0.5)
    assert found.p == pytest.approx(found.smallest_p) == pytest.approx(2 / 2**10)
    assert found.exact and found.blocks.count == 10 and found.draws == 2**10 - 1
    few = what_if.beside_same_tokens(np.full(9, 2.0), np.full(9, 1.0))
    assert few.p == few.smallest_p == 0.5 and few.blocks.too_few


def test_same_tokens_are_uniform_where_it_is_all_the_same_which_expert_is_lost():
    rng = np.random.default_rng(5)
    p = []
    for _ in range(600):
        block = np.repeat(rng.standard_normal((2, 12)), 8, axis=1)  # neighbours alike
        p.append(what_if.beside_same_tokens(*np.exp(block), draws=499).p)
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p) <= level) == pytest.approx(level, abs=0.045)


def test_same_tokens_exchange_their_sides():
    rng = np.random.default_rng(6)
    a, b = rng.random((2, 50))
    one, two = what_if.beside_same_tokens(a, b), what_if.beside_same_tokens(b, a)
    assert one.p == two.p and one.value == two.instead
    assert one.low <= one.value - one.instead <= one.high or one.p <= 0.05
    with pytest.raises(LensError, match="same tokens twice"):
        what_if.beside_same_tokens(a, b[:-1])


def test_effect_per_use_is_alike_where_use_alone_decides():
    load = np.array([[0.5, 0.25, 0.25, 0.0]])
    per_use = what_if.effect_per_use(load * 2 * 0.3, load, 2)
    np.testing.assert_allclose(per_use[0, :3], 0.3)
    assert np.isnan(per_use[0, 3])


def test_effects_that_follow_use_are_found_and_others_are_not():
    rng = np.random.default_rng(1)
    load = rng.dirichlet(np.ones(8), size=12)
    planted = what_if.effect_and_use(load * 0.1 + 0.001 * rng.random(load.shape), load)
    assert planted.correlation > 0.9 and planted.p < 0.001
    assert planted.low < 0 < planted.high
    p = [what_if.effect_and_use(rng.random((6, 8)), load[:6], draws=199).p for _ in range(300)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_effect_and_use_ignores_the_order_of_experts_and_repeats_with_its_seed():
    rng = np.random.default_rng(2)
    effect, load = rng.random((5, 8)), rng.random((5, 8))
    order = rng.permutation(8)
    a = what_if.effect_and_use(effect, load)
    b = what_if.effect_and_use(effect[:, order], load[:, order])
    assert a.correlation == pytest.approx(b.correlation)
    assert vars(a) == vars(what_if.effect_and_use(effect, load))
    assert a.p != what_if.effect_and_use(effect, load, seed=5).p


@pytest.mark.parametrize(
    ("effect", "load", "message"),
    [
        (np.zeros((2, 8)), np.zeros((2, 7)), "the same"),
        (np.zeros((2, 1)), np.zeros((2, 1)), "at least two experts"),
        (np.zeros((2, 8)), np.random.default_rng(0).random((2, 8)), "alike in one"),
    ],
)
def test_effect_and_use_says_what_it_cannot_answer(effect, load, message):
    with pytest.raises(LensError, match=message):
        what_if.effect_and_use(effect, load)


def test_the_strongest_come_first():
    effect = np.array([[0.1, 0.9], [0.5, 0.2]])
    assert what_if.strongest(effect, 3).tolist() == [[0, 1], [1, 0], [1, 1]]


def test_carried_names_the_best_place_of_each_layer_and_the_control_there():
    recovered = np.array([[0.9, 0.1], [0.3, 0.7]])
    control = np.array([[0.2, 0.8], [0.6, 0.5]])
    found = what_if.carried(recovered, control)
    assert found.position.tolist() == [0, 1]
    assert found.largest.tolist() == [0.9, 0.7]
    assert found.control.tolist() == [0.2, 0.5]
    with pytest.raises(LensError, match="no difference to recover"):
        what_if.carried(np.full((2, 2), np.nan), control)
