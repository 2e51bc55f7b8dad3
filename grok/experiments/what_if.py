"""A run compared with the same run under interventions.

Axes: T tokens, C candidates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grok.interventions.edits import NO_EDITS, Edits
from grok.runner.batching import read_together
from grok.runner.interfaces import Prompt
from grok.runner.results import pieces_apart
from grok.trace import RoutingTrace

if TYPE_CHECKING:
    from grok.engine.compiled import Forward
    from grok.runner.model import Model


@dataclass(frozen=True, eq=False)
class WhatIf:
    """A prompt as it is and under interventions.

    Attributes:
        base, changed: the routing without and with them.
        kl: KL(base ‖ changed) of the next-token distributions after each token [T], nats.
        tokens: next tokens [T, C] that either expects most, ordered by the larger probability.
        pieces: their pieces [T, C].
        base_probs, changed_probs: their probabilities [T, C].
    """

    base: RoutingTrace
    changed: RoutingTrace
    kl: np.ndarray
    tokens: np.ndarray
    pieces: np.ndarray
    base_probs: np.ndarray
    changed_probs: np.ndarray


def what_if(model: Model, prompt: Prompt, edits: Edits, *, candidates: int = 10) -> WhatIf:
    """A prompt with and without interventions.

    Raises:
        GrokError: an unusable prompt, or edits that do not fit the model.
    """
    tokens = model.encode(prompt)
    passes = list(read_together(model, [(tokens, NO_EDITS), (tokens, edits)], candidates))
    return beside(model, tokens, passes, edits)


def what_ifs(
    model: Model, prompt: Prompt, edits: Sequence[Edits], *, candidates: int = 10
) -> list[WhatIf]:
    """A prompt as it is, run once, and under each of several edits, in as few passes over the
    weights as hold them; raises as `what_if`."""
    tokens = model.encode(prompt)
    runs = [(tokens, one) for one in (NO_EDITS, *edits)]
    passes = read_together(model, runs, candidates)
    base = next(passes)
    return [beside(model, tokens, [base, one], own) for one, own in zip(passes, edits, strict=True)]


def beside(model: Model, tokens: np.ndarray, passes: Sequence[Forward], edits: Edits) -> WhatIf:
    """The pass as it is and the changed one, of one prompt [T], compared."""
    settings = {"max_new_tokens": 0}
    base = model.routing_trace([(tokens, passes[0])], tokens.size, settings)
    changed = model.routing_trace([(tokens, passes[1])], tokens.size, settings, edits)
    logs = [log_softmax(one.logits[0, : tokens.size]) for one in passes]
    kl = np.empty(tokens.size)
    shown = np.empty((tokens.size, base.candidates.shape[1]), np.int32)
    for t, (before, after) in enumerate(zip(*logs, strict=True)):
        kl[t] = divergence(before, after)
        either = np.union1d(base.candidates[t], changed.candidates[t])
        order = np.argsort(-np.maximum(before[either], after[either]), kind="stable")
        shown[t] = either[order[: shown.shape[1]]]
    probs = [np.exp(np.take_along_axis(one, shown, axis=-1)) for one in logs]
    return WhatIf(base, changed, kl, shown, pieces_apart(model, shown), *probs)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64 along the last axis."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    log_probs: np.ndarray = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return log_probs


def divergence(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """KL(p ‖ q) in nats of log-probabilities [V]."""
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (log_p - log_q), 0.0)
    return float(max(terms.sum(), 0.0))
