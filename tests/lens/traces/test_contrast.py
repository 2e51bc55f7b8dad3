"""Experts of tokens of a kind, experts of equal tokens, and loops."""

from __future__ import annotations

import numpy as np
import pytest

from lens.errors import LensError
from lens.traces.contrast import equal_tokens, loop_of, strongest_contrast
from lens.traces.trace import Trace

L, E, K = 3, 8, 2


def text(logits: np.ndarray, tokens=None) -> Trace:
    n = logits.shape[1]
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1)[..., :K]
    return Trace(
        tokens=np.arange(1, n + 1, dtype=np.int32) if tokens is None else np.asarray(tokens),
        pieces=np.array([f"w{i}" for i in range(n)]),
        prompt_length=n,
        router_logits=logits.astype(np.float32),
        router_probs=probs.astype(np.float32),
        experts=experts.astype(np.int32),
        gates=np.take_along_axis(probs, experts, -1).astype(np.float32),
        candidates=np.zeros((n, 0), np.int32),
        candidate_probs=np.zeros((n, 0), np.float32),
        model_sha256="0" * 64,
    )


def noise(n: int, seed: int, stay: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((L, n, E))
    for t in range(1, n):
        if rng.random() < stay:
            logits[:, t] = logits[:, t - 1]
    return logits


def test_a_planted_expert_of_a_kind_is_found_with_its_shares():
    kind = np.arange(60) % 5 == 0
    logits = noise(60, 0)
    logits[1, kind, 6] += 20
    found = strongest_contrast(text(logits), kind)
    assert (found.layer, found.expert) == (1, 6)
    trace = text(logits)
    picked = (trace.experts[1] == 6).any(axis=1)
    assert found.inside == 1 and found.outside == pytest.approx(picked[~kind].mean())
    # Turned by a multiple of five the kind is itself: 11 of the 59 turns.
    assert found.p == pytest.approx(12 / 60)


def test_a_part_of_the_text_with_an_expert_of_its_own_is_rarer_than_any_turn():
    kind = np.arange(60) >= 36
    logits = noise(60, 1)
    logits[2, kind, 0] += 20
    logits[2, ~kind, 0] -= 20
    found = strongest_contrast(text(logits), kind)
    assert (found.layer, found.expert, found.inside, found.outside) == (2, 0, 1, 0)
    assert found.p == pytest.approx(1 / 60) and found.usual < 0.8


def test_kinds_that_mean_nothing_are_not_told_apart_even_where_neighbours_are_alike():
    p = []
    for seed in range(120):
        kind = np.arange(50) >= 20 + seed % 10
        p.append(strongest_contrast(text(noise(50, seed, stay=0.5)), kind).p)
    assert np.mean(np.array(p) <= 0.05) < 0.11
    assert 0.4 < np.mean(p) < 0.62


def test_a_kind_of_all_tokens_or_none_has_no_contrast():
    for kind in (np.ones(9, bool), np.zeros(9, bool)):
        with pytest.raises(LensError, match="some of both"):
            strongest_contrast(text(noise(9, 0)), kind)


def test_experts_settled_by_the_id_are_told_from_experts_settled_by_the_place():
    tokens = np.random.default_rng(0).integers(1, 9, 60)
    by_id = np.random.default_rng(1).standard_normal((L, 9, E))[:, tokens]
    found = equal_tokens(text(by_id, tokens), draws=199)
    np.testing.assert_allclose(found.same, 1)
    assert found.p == pytest.approx(1 / 200) and (found.other < 0.7).all()
    p = [equal_tokens(text(noise(60, s), tokens), draws=99, seed=s).p for s in range(40)]
    assert 0.35 < np.mean(p) < 0.65 and np.mean(np.array(p) <= 0.05) < 0.18
    a, b = np.triu_indices(60, 1)
    assert found.pairs == np.count_nonzero(tokens[a] == tokens[b])


def test_of_a_long_text_equal_tokens_are_compared_with_some_of_the_others():
    tokens = np.random.default_rng(0).integers(1, 40, 300)
    found = equal_tokens(text(noise(300, 3), tokens), draws=49)
    np.testing.assert_allclose(found.same, K / E, atol=0.05)
    np.testing.assert_allclose(found.other, K / E, atol=0.05)
    with pytest.raises(LensError, match="occurs twice"):
        equal_tokens(text(noise(5, 0)))


def test_the_loop_that_a_text_ends_in_has_its_period_and_start():
    assert loop_of(np.array([9, 8, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1])) == (3, 2)
    assert loop_of(np.array([1, 2, 3, 4, 5, 6, 7])) is None
    assert loop_of(np.array([1, 2, 3, 1, 2, 3, 4])) is None
    assert loop_of(np.array([5, 7, 7, 7, 7, 7, 7])) == (2, 1)
