"""Loads of given and generated tokens, against other parts of the same text."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lens.errors import LensError
from lens.traces.continuation import part_loads
from lens.traces.routing import generated_tokens, load, prompt_tokens
from lens.traces.trace import Trace

L, E, K = 3, 8, 2
EDITED = {"interventions": ["force"]}  # then a trace may have experts of any logits


def text(n_prompt: int, n_generated: int, *, seed: int = 0, stay: float = 0.0, shift=None) -> Trace:
    """Random routing; a token keeps its neighbour's logits with probability `stay`."""
    rng = np.random.default_rng(seed)
    n = n_prompt + n_generated
    logits = rng.standard_normal((L, n, E))
    for t in range(1, n):
        same = rng.random() < stay
        logits[:, t] = logits[:, t - 1] if same else logits[:, t]
    if shift is not None:
        logits[:, n_prompt:, shift] += 2
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1)[..., :K]
    return Trace(
        tokens=np.arange(1, n + 1, dtype=np.int32),
        pieces=np.array([f"w{i}" for i in range(n)]),
        prompt_length=n_prompt,
        router_logits=logits.astype(np.float32),
        router_probs=probs.astype(np.float32),
        experts=experts.astype(np.int32),
        gates=np.take_along_axis(probs, experts, -1).astype(np.float32),
        candidates=np.zeros((n, 0), np.int32),
        candidate_probs=np.zeros((n, 0), np.float32),
        model_sha256="0" * 64,
    )


def test_the_loads_are_those_of_the_parts():
    trace = text(37, 50)
    found = part_loads(trace)
    np.testing.assert_allclose(found.prompt, load(trace, tokens=prompt_tokens(trace)))
    np.testing.assert_allclose(found.generated, load(trace, tokens=generated_tokens(trace)))
    np.testing.assert_allclose(found.test.value, np.abs(found.difference).sum(axis=1) / 2)
    assert (found.n_prompt, found.n_generated) == (37, 50)
    assert found.test.draws == 86


def test_an_expert_that_generated_tokens_prefer_is_found():
    found = part_loads(text(150, 150, shift=3))
    assert found.test.found() == L and found.overall_p <= 0.01
    assert (found.p[:, 3] <= 0.05).all() and (found.difference[:, 3] > 0.15).all()
    assert found.test.p.min() >= 1 / 300


def test_parts_of_one_text_do_not_differ_even_where_neighbours_are_alike():
    p, overall = [], []
    for seed in range(150):
        found = part_loads(text(50, 70, seed=seed, stay=0.7))
        p += found.test.p.tolist()
        overall.append(found.overall_p)
    assert np.mean(np.array(p) <= 0.05) < 0.1
    assert np.mean(np.array(overall) <= 0.05) < 0.1
    assert 0.42 < np.mean(p) < 0.6


def test_turned_parts_keep_their_lengths_and_wrap_around():
    """By hand: one expert that only the generated tokens and none before them use."""
    trace = text(20, 20)
    experts = np.tile(np.array([0, 1], np.int32), (L, 40, 1))
    experts[:, 20:] = [2, 3]
    found = part_loads(dataclasses.replace(trace, experts=experts, settings=EDITED))
    np.testing.assert_allclose(found.test.value, 1)
    turned = 1 - np.minimum(np.arange(1, 40), 40 - np.arange(1, 40)) / 10
    np.testing.assert_allclose(found.test.mean, np.abs(turned).mean())
    # Turned by half the text the parts change places, and differ as much.
    np.testing.assert_allclose(found.test.p, 2 / 40)


def test_a_trace_without_generated_tokens_or_with_too_few_is_explained():
    with pytest.raises(LensError, match="nothing generated"):
        part_loads(text(20, 0))
    with pytest.raises(LensError, match="Generate more tokens"):
        part_loads(text(20, 8))
    with pytest.raises(LensError, match="at least 4 of each"):
        part_loads(text(200, 3))


def test_an_expert_that_no_token_uses_has_no_p_value():
    trace = text(60, 60)
    logits = trace.router_logits.copy()
    logits[0, :, 5] = -20
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1)[..., :K].astype(np.int32)
    changed = dataclasses.replace(
        trace,
        router_logits=logits,
        router_probs=probs,
        experts=experts,
        gates=np.take_along_axis(probs, experts, -1),
    )
    found = part_loads(changed)
    assert np.isnan(found.p[0, 5]) and np.isfinite(found.p[1:]).all()


def test_a_drift_makes_the_parts_differ_and_no_jump():
    whole, jump = [], []
    for seed in range(60):
        trace = text(80, 120, seed=seed)
        walk = np.random.default_rng(seed + 999).standard_normal((L, 200, E)).cumsum(axis=1)
        logits = trace.router_logits + walk / np.sqrt(200)
        experts = np.argsort(-logits, axis=-1)[..., :K].astype(np.int32)
        found = part_loads(dataclasses.replace(trace, experts=experts, settings=EDITED))
        assert found.jump is not None and found.no_jump == ""
        whole.append(found.overall_p)
        jump.append(found.jump.overall_p)
    assert np.mean(np.array(whole) <= 0.05) >= 0.3
    assert np.mean(np.array(jump) <= 0.05) <= 0.1


def test_a_jump_is_told_and_a_short_text_says_why_it_is_not():
    found = part_loads(text(150, 150, shift=3))
    assert found.jump is not None and found.jump.overall_p <= 0.05
    np.testing.assert_array_equal(found.jump.change[:, 3] > 0.15, True)
    short = part_loads(text(20, 20))
    assert short.jump is None and "Use a longer text" in short.no_jump
