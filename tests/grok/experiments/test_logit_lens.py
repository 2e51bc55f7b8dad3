"""The logit lens."""

from __future__ import annotations

import numpy as np

from grok.experiments.logit_lens import logit_lens
from grok.experiments.what_if import log_softmax

TOKENS = [5, 17, 3, 42, 99, 256, 12, 7, 31]


def logits_of(model, tokens, edits=None):
    with model.trace(tokens) as t:
        if edits is not None:
            t.add(edits)
        saved = t.logits.save()
    return saved.value


def test_the_logit_lens_ends_at_the_models_own_answer(tiny3):
    lens = logit_lens(tiny3, TOKENS, candidates=5)
    trace = tiny3.trace_routing(TOKENS, candidates=5)
    np.testing.assert_array_equal(lens.tokens[-1], trace.candidates)
    np.testing.assert_allclose(lens.probs[-1], trace.candidate_probs, atol=1e-5)
    assert lens.kl[-1].max() < 1e-5 < lens.kl[0].min()
    assert lens.tokens.shape == (3, 9, 5) == lens.pieces.shape
    probs = np.exp(log_softmax(logits_of(tiny3, TOKENS)))
    np.testing.assert_allclose(lens.next_probs[-1], probs[np.arange(8), TOKENS[1:]], rtol=1e-3)
