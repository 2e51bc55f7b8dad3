"""The words of experts: counted by hand, planted, and against the chance that is claimed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom

from lens.errors import LensError
from lens.many_prompts import word_null
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.run_words import prompts_of_words, strongest, word_lift
from lens.many_prompts.word_null import at_least, expected_counts
from tests.lens.many_prompts.run_making import finished, random_routing

LENGTHS = [5, 9, 1, 12, 7]
LABELS = ["b", "a", "b", "a", "a"]


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "store", keep_days=0)


@pytest.fixture
def routing():
    return random_routing(np.random.default_rng(0), LENGTHS)


def groups_by_chance(rng, n_groups, total=20, cells=(2, 3), n_words=4):
    """Sizes, occurrences and counts of words in places that were drawn at random."""
    size = rng.integers(0, total + 1, (n_groups, *cells))
    words = rng.integers(0, n_words + 2, (n_groups, total))
    occurrences = np.stack([(words == v).sum(axis=1) for v in range(n_words)], axis=1)
    return size, occurrences, np.full(n_groups, total)


def test_the_tail_of_words_is_scipys_hypergeometric_one():
    rng = np.random.default_rng(2)
    size = rng.integers(0, 61, (2, 4))
    size[0, 0], size[0, 1] = 0, 60
    occurrences = np.array([40, 7, 7, 1])
    count = np.minimum(rng.integers(0, 30, (2, 4, 4)), np.minimum(size[..., None], occurrences))
    count = np.maximum(count, occurrences - (60 - size[..., None]))
    expected = hypergeom.sf(count - 1, 60, size[..., None], occurrences)
    np.testing.assert_allclose(
        at_least(count, size[None], occurrences[None], np.array([60])), expected, atol=1e-12
    )


def test_words_are_counted_and_a_planted_one_is_found(store):
    tokens, experts = random_routing(np.random.default_rng(3), [60] * 10)
    for own, ids in zip(experts, tokens, strict=True):
        own[2, ids == 4] = [5, 6]
    run = finished(store, tokens, experts, ["a", "b"] * 5)
    words = word_lift(run)
    everything, ids = np.concatenate(experts, axis=1), np.concatenate(tokens)
    v = words.tokens.tolist().index(4)
    assert words.pieces[v] == "w4"
    assert words.occurrences[v] == (ids == 4).sum() == words.count[2, 5, v]
    for layer, expert, column in [(0, 3, 7), (1, 0, 0), (2, 6, v)]:
        chose = (everything[layer] == expert).any(axis=1)
        assert words.size[layer, expert] == chose.sum()
        took = chose & (ids == words.tokens[column])
        assert words.count[layer, expert, column] == took.sum()
        lift = (took.sum() / chose.sum()) / (words.occurrences[column] / len(ids))
        assert words.lift[layer, expert, column] == pytest.approx(lift)
    assert words.q[2, 5, v] < 1e-6
    assert words.q[2, 5].argmin() == v
    assert words.found[2, 5] >= 1 > words.found[1].mean()
    assert (np.diff(words.occurrences) <= 0).all()
    assert prompts_of_words(run, 2, 5)[4] == sum((own == 4).any() for own in tokens)


def test_p_values_of_words_by_chance_are_not_too_small(store):
    shares = []
    for seed in range(4):
        run = finished(store, *random_routing(np.random.default_rng(seed), [50] * 6), ["a"] * 6)
        shares.append((word_lift(run).p <= 0.05).mean())
    assert np.mean(shares) < 0.05


def test_words_that_are_rare_are_not_tested(store, routing):
    run = finished(store, *routing, LABELS)
    ids, n = np.unique(np.concatenate(routing[0]), return_counts=True)
    assert sorted(word_lift(run, least=3).tokens) == sorted(ids[n >= 3])
    assert len(word_lift(run, least=1, most=2).tokens) == 2
    with pytest.raises(LensError, match="No token occurs 99 times"):
        word_lift(run, least=99)


def test_the_strongest_tokens_come_with_what_stands_around_them(store, routing):
    tokens, experts = routing
    rng = np.random.default_rng(4)
    gates = [rng.random(own.shape) for own in experts]
    run = finished(store, tokens, experts, LABELS, gates)
    found = strongest(run, 1, 3, most=5, context=2)
    every = [
        (gates[i][1, t, k], i, t, k)
        for i, own in enumerate(experts)
        for t, k in np.argwhere(own[1] == 3)
    ]
    best = sorted(every, reverse=True)
    taken: dict[int, int] = {}
    expected = []
    for gate, i, t, k in best:
        token = int(tokens[i][t])
        taken[token] = taken.get(token, 0) + 1
        if taken[token] <= 3:
            expected.append((i, t, k, pytest.approx(gate, rel=1e-6)))
    assert [(o.prompt, o.position, o.slot, o.gate) for o in found] == expected[:5]
    for one in found:
        around = [f"w{token}" for token in tokens[one.prompt]]
        assert one.piece == around[one.position]
        assert list(one.before) == around[max(0, one.position - 2) : one.position]
        assert list(one.after) == around[one.position + 1 : one.position + 3]
        assert one.label == LABELS[one.prompt]
    token = found[0].token
    own = strongest(run, 1, 3, token=token)
    assert {one.token for one in own} == {token}
    assert len(own) == sum(tokens[i][t] == token for _, i, t, _ in every)


@pytest.mark.parametrize("exact", [64, 0])
def test_the_tail_of_sums_over_groups_is_that_of_shuffles_within_them(exact, monkeypatch):
    monkeypatch.setattr(word_null, "EXACT", exact)
    rng = np.random.default_rng(5)
    size, occurrences, totals = groups_by_chance(rng, 12)
    draws = sum(
        rng.hypergeometric(
            occurrences[g], (totals[g] - occurrences[g]), size[g][..., None], (4000, 2, 3, 4)
        )
        for g in range(12)
    )
    np.testing.assert_allclose(
        expected_counts(size, occurrences, totals), draws.mean(axis=0), atol=0.15
    )
    count = np.quantile(draws, 0.9, axis=0).astype(int)
    p = at_least(count, size, occurrences, totals)
    np.testing.assert_allclose(p, (draws >= count).mean(axis=0), atol=0.03)
    assert (at_least(np.zeros_like(count), size, occurrences, totals) > 0.97).all()


def test_far_out_the_moments_say_what_the_convolution_says(monkeypatch):
    size, occurrences, totals = groups_by_chance(np.random.default_rng(6), 12)
    count = np.floor(expected_counts(size, occurrences, totals) * 1.5).astype(int)
    count = np.minimum(count, np.minimum(size[..., None], occurrences[:, None, None]).sum(axis=0))
    exact = at_least(count, size, occurrences, totals)
    monkeypatch.setattr(word_null, "EXACT", 0)
    rough = at_least(count, size, occurrences, totals)
    assert exact.min() < 1e-4
    np.testing.assert_allclose(np.log10(rough), np.log10(exact), rtol=0.2, atol=0.1)
    assert (rough > 0.8 * exact).all()  # if anything it is cautious


def test_shuffles_within_a_prompt_leave_out_what_the_prompt_does(store):
    tokens, experts = random_routing(np.random.default_rng(7), [40] * 12)
    for i in range(12):  # odd prompts have words of their own and an expert of their own
        tokens[i] += 20 * (i % 2)
        experts[i][0, :, 0] = 1 if i % 2 else 2
        experts[i][0, :, 1] = 3
    run = finished(store, tokens, experts, ["a", "b"] * 6)
    over_run = word_lift(run)
    own = over_run.tokens >= 20
    assert np.median(over_run.q[0, 1, own]) < 0.02
    np.testing.assert_allclose(over_run.lift[0, 1, own], 2)
    for within in ("label", "prompt"):
        inside = word_lift(run, within=within)
        assert inside.within == within
        np.testing.assert_array_equal(inside.count, over_run.count)
        np.testing.assert_allclose(inside.lift[0, 1, own], 1)
        np.testing.assert_allclose(inside.p[0, 1, own], 1)
        assert np.isnan(inside.lift[0, 1, ~own]).all() and np.isnan(inside.q[0, 1, ~own]).all()


def test_a_word_that_picks_its_expert_is_found_within_prompts_too(store):
    tokens, experts = random_routing(np.random.default_rng(8), [40] * 8)
    for own, ids in zip(experts, tokens, strict=True):
        own[1, ids == 4] = [5, 6]
    run = finished(store, tokens, experts, ["a", "b"] * 4)
    for skip in (0, 3):
        words = word_lift(run, within="prompt", skip=skip)
        v = words.tokens.tolist().index(4)
        assert words.q[1, 5, v] < 0.01
        assert words.q[1, 5].argmin() == v
