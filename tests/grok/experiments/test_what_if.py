"""A run with edits beside the run without."""

from __future__ import annotations

import numpy as np

from grok.experiments.what_if import divergence, log_softmax, what_if
from grok.interventions.edits import ban, edit

TOKENS = [5, 17, 3, 42, 99, 256, 12, 7, 31]


def logits_of(model, tokens, edits=None):
    with model.trace(tokens) as t:
        if edits is not None:
            t.add(edits)
        saved = t.logits.save()
    return saved.value


def test_what_if_is_two_runs_side_by_side(tiny3):
    edits = edit("router.logits", ban(2), layers=1)
    found = what_if(tiny3, TOKENS, edits, candidates=4)
    before, after = logits_of(tiny3, TOKENS), logits_of(tiny3, TOKENS, edits)
    np.testing.assert_array_equal(found.base.experts, tiny3.trace_routing(TOKENS).experts)
    assert not (found.changed.experts[1] == 2).any()
    expected = [
        divergence(a, b) for a, b in zip(log_softmax(before), log_softmax(after), strict=True)
    ]
    np.testing.assert_allclose(found.kl, expected, atol=1e-6)
    probs = np.exp(log_softmax(after))
    np.testing.assert_allclose(
        found.changed_probs, np.take_along_axis(probs, found.tokens, axis=-1), atol=1e-6
    )
    assert found.tokens.shape == (9, 4) == found.pieces.shape
    largest = np.maximum(found.base_probs, found.changed_probs)
    assert (np.diff(largest, axis=1) <= 0).all()


def test_what_if_without_edits_changes_nothing(tiny3):
    found = what_if(tiny3, TOKENS, edit("router.logits", ban(2), positions=slice(9, None)))
    assert found.kl.max() < 1e-6
    np.testing.assert_array_equal(found.base.experts, found.changed.experts)
