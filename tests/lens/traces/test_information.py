"""Mutual information of tokens and experts: the estimate, its null, and what is planted."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from sklearn.metrics import mutual_info_score

from lens.errors import LensError
from lens.traces.information import (
    mutual_information,
    position_bins,
    position_information,
    token_information,
)


def choices(seed, n_layers=2, n_tokens=120, n_experts=8, top_k=2):
    keys = np.random.default_rng(seed).random((n_layers, n_tokens, n_experts))
    return np.argsort(keys, axis=-1)[..., :top_k]


def ids(seed, n_tokens=120, n_values=20):
    return np.random.default_rng([seed, 1]).integers(0, n_values, n_tokens)


def test_the_first_choice_agrees_with_scikit_learn():
    tokens, experts = ids(0), choices(0)
    expected = [mutual_info_score(tokens, layer[:, 0]) for layer in experts]
    np.testing.assert_allclose(mutual_information(tokens, experts[:, :, :1], 8), expected)
    found = token_information(tokens, experts, 8, choices="first", draws=19)
    np.testing.assert_allclose(found.test.value, expected)


def test_all_choices_agree_with_scikit_learn_over_assignments():
    tokens, experts = ids(1), choices(1, top_k=3)
    expected = [mutual_info_score(np.repeat(tokens, 3), layer.ravel()) for layer in experts]
    found = token_information(tokens, experts, 8, draws=19)
    np.testing.assert_allclose(found.test.value, expected)
    np.testing.assert_allclose(mutual_information(tokens, experts, 8), expected)


def test_a_worked_example():
    # Two ids, each always with its own expert: one bit less nothing.
    found = mutual_information(np.array([3, 3, 9, 9]), np.array([[[0], [0], [5], [5]]]), 8)
    np.testing.assert_allclose(found, [math.log(2)])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_renaming_ids_and_experts_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    tokens, experts = ids(seed, 40, 6), choices(seed, 1, 40)
    before = mutual_information(tokens, experts, 8)
    renamed = rng.permutation(8)[experts]
    np.testing.assert_allclose(
        mutual_information(rng.permutation(6)[tokens], renamed, 8), before, atol=1e-12
    )
    assert -1e-12 <= before[0] <= math.log(8)


def test_the_null_is_that_of_stretches_turned_one_by_one():
    tokens, experts = ids(2, 60, 7), choices(2, 1, 60)
    found = token_information(tokens, experts, 8, draws=499, seed=3)
    rng = np.random.default_rng(9)
    slow = []
    for _ in range(499):  # four stretches of 15
        turns = [np.roll(np.arange(15), rng.integers(15)) + start for start in (0, 15, 30, 45)]
        slow.append(mutual_information(tokens, experts[:, np.concatenate(turns)], 8)[0])
    assert found.test.mean[0] == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / 499**0.5)
    low, high = np.quantile(slow, [0.025, 0.975])
    spread = np.std(slow)
    assert found.test.low[0] == pytest.approx(low, abs=0.4 * spread)
    assert found.test.high[0] == pytest.approx(high, abs=0.4 * spread)


def test_the_mean_of_the_null_is_the_bias_of_counting():
    found = token_information(ids(3, 4000, 10), choices(3, 1, 4000, top_k=1), 8, draws=99)
    assert found.test.mean[0] == pytest.approx(9 * 7 / (2 * 4000), rel=0.1)


@pytest.mark.parametrize("kind", ["token", "position", "many"])
def test_p_values_are_uniform_on_noise(kind):
    texts = np.repeat(np.arange(6), 16)
    p = []
    for seed in range(250):
        experts = choices(seed, 1, 96)
        if kind == "token":
            found = token_information(ids(seed, 96), experts, 8, draws=99, seed=seed)
        else:
            groups = texts if kind == "many" else None
            found = position_information(experts, 8, groups=groups, bins=4, draws=99, seed=seed)
        p.append(found.test.p[0])
    assert kstest(p, "uniform").pvalue > 0.001


def test_experts_that_follow_the_token_are_found_and_fill_the_share():
    tokens = ids(4, 300, 12)
    pairs = choices(5, 2, 12)
    found = token_information(tokens, pairs[:, tokens], 8, draws=199)
    np.testing.assert_allclose(found.share, 1)
    np.testing.assert_allclose(found.test.value, found.most)
    assert found.test.found() == 2


def test_half_of_the_tokens_following_their_id_gives_a_share_between():
    tokens = ids(6, 2000, 12)
    experts = choices(6, 1, 2000)
    follow = np.random.default_rng(0).random(2000) < 0.5
    experts[:, follow] = choices(7, 1, 12)[:, tokens[follow]]
    found = token_information(tokens, experts, 8, draws=99)
    assert found.test.q[0] <= 0.05
    assert 0.1 < found.share[0] < 0.6


def test_noise_is_not_distinguishable_from_chance():
    found = token_information(ids(8, 400), choices(8, 12, 400), 8, draws=199)
    assert found.test.found() == 0
    assert np.abs(found.share).max() < 0.05


def test_a_text_without_repeats_says_that_there_are_too_few():
    found = token_information(np.arange(50), choices(0, 2, 50), 8, draws=19)
    assert found.n_repeated == 0
    assert "Only 0 of 50 tokens" in found.note and "too few repeats" in found.note
    np.testing.assert_array_equal(found.test.p, 1)
    assert np.isnan(found.share).all()


def test_repeats_are_counted():
    found = token_information(np.array([1, 1, 2, 3, 3, 3]), choices(0, 1, 6), 8, draws=19)
    assert (found.n_tokens, found.n_values, found.n_repeated) == (6, 3, 5)


@pytest.mark.parametrize(
    ("known", "most"),  # tokens shuffled over both texts: all; a border in a stretch counts
    [(True, 0.12), (False, 0.5)],
)
def test_what_a_text_or_a_part_of_it_is_about_counts_seldom(known, most):
    texts = np.repeat([0, 1], 200)
    p = []
    for seed in range(60):
        tokens = ids(seed, 400, 10) + 10 * texts  # each text has its own words …
        experts = choices(seed, 1, 400, n_experts=4, top_k=1)
        experts += 4 * texts[None, :, None]  # … and experts
        groups = texts if known else None
        p.append(token_information(tokens, experts, 8, groups=groups, draws=99, seed=seed).test.p)
    assert np.mean(np.array(p) <= 0.05) <= most


# --- position -------------------------------------------------------------------


@pytest.mark.parametrize("n_tokens", [64, 100, 101, 511])
def test_bins_of_one_text_are_of_equal_size(n_tokens):
    sizes = np.bincount(position_bins(np.arange(n_tokens), 8))
    assert len(sizes) == 8
    assert sizes.max() - sizes.min() <= 1


def test_bins_of_many_texts_hold_about_as_many_tokens_and_never_split_a_position():
    lengths = np.random.default_rng(0).integers(5, 200, 60)
    position = np.concatenate([np.arange(n) for n in lengths])
    found = position_bins(position, 8)
    sizes = np.bincount(found)
    assert len(sizes) == 8
    assert sizes.max() / sizes.min() < 1.5
    for at in (0, 3, 100):
        assert len(np.unique(found[position == at])) == 1
    assert (np.diff(found[np.argsort(position, kind="stable")]) >= 0).all()


def test_short_texts_have_fewer_bins_and_the_shortest_none():
    assert position_information(choices(0, 1, 40), 8, draws=19).n_values == 5
    with pytest.raises(LensError, match="15 tokens make fewer than two bins"):
        position_information(choices(0, 1, 15), 8)


def test_a_change_along_one_text_is_found_and_the_note_says_what_it_may_be():
    experts = choices(1, 1, 160)
    experts[0, 80:] = [2, 6]
    found = position_information(experts, 8, draws=199)
    assert found.test.p[0] <= 0.005
    assert "change of subject" in found.note


def test_only_places_that_texts_share_count_across_texts():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 64)
    drifting = choices(2, 1, 64 * 20)
    shared = drifting.copy()
    for text in range(20):  # each text changes its experts at a place of its own
        start = 64 * text + rng.integers(0, 64)
        run = np.arange(start, start + 32)
        drifting[0, 64 * text + (run - 64 * text) % 64] = [2, 6]
        shared[0, 64 * text : 64 * text + 8] = [2, 6]
    assert position_information(drifting, 8, groups=groups, draws=199).test.p[0] > 0.05
    assert position_information(shared, 8, groups=groups, draws=199).test.p[0] <= 0.005


def test_large_tables_are_counted_as_small_ones(monkeypatch):
    tokens, experts = ids(3), choices(3, 3)
    before = token_information(tokens, experts, 8, draws=19)
    for limit in (0, 200):
        monkeypatch.setattr("lens.traces.information.HELD_CELLS", limit)
        after = token_information(tokens, experts, 8, draws=19)
        np.testing.assert_allclose(after.test.value, before.test.value)
        np.testing.assert_allclose(after.test.mean, before.test.mean)


def test_the_same_seed_gives_the_same_null_and_another_one_another():
    tokens, experts = ids(0), choices(0)
    one, two, three = (
        token_information(tokens, experts, 8, draws=19, seed=seed).test.mean for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != three).any()


@pytest.mark.parametrize("draws", [0, 18, 10**6])
def test_too_few_or_too_many_draws_are_refused(draws):
    with pytest.raises(LensError, match="expected 19 to 100,000"):
        token_information(ids(0), choices(0), 8, draws=draws)


def test_one_token_and_unknown_choices_are_refused():
    with pytest.raises(LensError, match="found 1 tokens"):
        token_information(np.array([1]), choices(0, 1, 1), 8)
    with pytest.raises(LensError, match="'all' or 'first'"):
        token_information(ids(0), choices(0), 8, choices="second")
