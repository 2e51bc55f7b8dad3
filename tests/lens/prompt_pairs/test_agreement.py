"""Experts that two texts share, token by token."""

from __future__ import annotations

import numpy as np
import pytest

from lens.errors import LensError
from lens.prompt_pairs.agreement import agreement
from lens.traces.trace import Trace

L, E, K = 3, 8, 2


def text(tokens, experts=None, *, seed=0, n_experts=E) -> Trace:
    """A trace of these token ids whose experts are random, or those given [L, T, K]."""
    n = len(tokens)
    logits = np.random.default_rng(seed).standard_normal((L, n, n_experts))
    if experts is not None:
        np.put_along_axis(logits, experts, np.array([9.0, 8.0]), axis=-1)
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chosen = np.argsort(-probs, axis=-1)[..., :K]
    return Trace(
        tokens=np.asarray(tokens, np.int32),
        pieces=np.array([f"w{i}" for i in tokens]),
        prompt_length=n,
        router_logits=logits.astype(np.float32),
        router_probs=probs.astype(np.float32),
        experts=chosen.astype(np.int32),
        gates=np.take_along_axis(probs, chosen, -1).astype(np.float32),
        candidates=np.zeros((n, 0), np.int32),
        candidate_probs=np.zeros((n, 0), np.float32),
        model_sha256="0" * 64,
    )


def test_a_cell_is_the_share_of_experts_in_common_whatever_their_order():
    experts = np.zeros((L, 3, K), int)
    experts[:, :] = [[0, 1], [2, 3], [4, 5]]
    other = experts.copy()
    other[:, 0], other[:, 1], other[:, 2] = [1, 0], [2, 7], [6, 7]
    found = agreement(text([1, 2, 3], experts), text([1, 2, 3], other))
    np.testing.assert_array_equal(found.shared, [[1, 0.5, 0]] * L)
    assert found.even == K / E


def test_inserted_tokens_have_no_counterpart_and_the_rest_are_aligned():
    found = agreement(text([1, 2, 9, 9, 3, 4]), text([1, 2, 3, 4]))
    assert found.partner.tolist() == [0, 1, -1, -1, 2, 3]
    assert np.isnan(found.shared[:, 2:4]).all()
    assert np.isfinite(found.shared[:, [0, 1, 4, 5]]).all()
    assert found.common_start == 2 and found.compared == 2 and found.test is None


def test_texts_with_the_same_experts_at_the_same_places_agree_more_than_chance():
    rng = np.random.default_rng(1)
    experts = np.argsort(rng.random((L, 60, E)), axis=-1)[..., :K]
    first = text([7, *range(10, 69)], experts, seed=1)
    second = text([8, *range(10, 69)], experts, seed=2)
    found = agreement(first, second, draws=199)
    assert found.test is not None and found.test.found() == L
    np.testing.assert_allclose(found.test.value, 1)
    np.testing.assert_allclose(found.test.mean, K / E, atol=0.05)


def test_unrelated_texts_agree_as_often_as_chance_has_it():
    p = []
    for seed in range(40):
        one = text([1, *range(10, 50)], seed=seed)
        other = text([2, *range(10, 50)], seed=1000 + seed)
        found = agreement(one, other, draws=99, seed=seed)
        p += found.test.p.tolist()
    assert np.mean(np.array(p) <= 0.05) < 0.12
    assert 0.4 < np.mean(p) < 0.65


def test_texts_of_other_models_are_refused():
    with pytest.raises(LensError, match="3 layers of 8 experts beside 3 of 4"):
        agreement(text([1, 2]), text([1, 2], n_experts=4))
