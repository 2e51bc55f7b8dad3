"""The model with all that a dictionary was trained on replaced at once, in several ways.

- `live`: each layer's reconstruction follows from the run itself, so errors add up.
- `offline`: reconstructions of the plain run's values are put in their place.
- `frozen_attention`: live, with `attn.normed` of every layer as the plain run had it, so that only
  what layers without attention do to an error is seen.
- `errors_added`: live, with the plain run's errors added back. It must give the plain logits, as
  far as `put_back` does: the plain run's values put in place of themselves by such an edit.
- `zero`, `mean`: the values are 0, or their mean on training text.

What is put in the place of a whole stream leaves nothing of the layers before it, so only a
dictionary that writes what experts add has `offline` and `frozen_attention`.

Axes: M sites written, B sequences, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from grok.dictionaries.evaluation.curve import Subject
from grok.dictionaries.evaluation.methods import Sequences
from grok.dictionaries.evaluation.replacing import ablations, errors, put, replacement
from grok.dictionaries.evaluation.spliced import Changed, Plain, compared
from grok.dictionaries.evaluation.tokens import Part
from grok.dictionaries.kinds.inference import apply
from grok.interventions.edits import Edits
from grok.interventions.sites import HookPoint

ATTENTION = "attn.normed"
ADDED = "moe.normed"  # what layers add to the stream beside attention
CHECKED = 2048  # tokens on which errors are added back


def standing_in(subject: Subject, tokens: int) -> dict[str, Any]:
    """Loss, next tokens and routes in each way, by its name; nothing for a crosscoder.

    Args:
        subject: the dictionary.
        tokens: held-out tokens, at most.
    """
    design = subject.dictionary.design
    if design.kind == "crosscoder":
        return {}
    windows, labels = subject.sequences(tokens)
    attention = [HookPoint(i, ATTENTION) for i in range(subject.model.config.n_layers)]
    adds = all(point.site == ADDED for point in design.targets)
    sequences = Sequences(design, windows, labels, attention if adds else ())
    runs = _ablations(subject)
    if adds:
        runs["offline"] = sequences.put(lambda part: _written(subject, part))
        runs["frozen_attention"] = lambda plain: _frozen(subject, plain, attention)
    found = _numbers(subject, windows, runs, sequences)
    some = windows[: max(1, CHECKED // len(windows[0]))]
    checked = Sequences(design, some, labels)
    own = subject.dictionary
    added: dict[str, Changed] = {
        "errors_added": lambda plain: replacement(own, added=errors(own, plain.kept)),
        "put_back": checked.put(lambda part: np.asarray(part.batch.y)),
    }
    found |= _numbers(subject, some, added, checked)
    live = found["live"]
    for name in ("zero", "mean"):
        lost = found[name]["ce_changed"] - found[name]["ce"]
        found[name] |= {
            "ce_recovered": (found[name]["ce_changed"] - live["ce_changed"]) / lost,
            "kl_recovered": 1 - live["kl"] / found[name]["kl"],
        }
    return found


def _numbers(
    subject: Subject, windows: list[np.ndarray], runs: dict[str, Changed], sequences: Sequences
) -> dict[str, Any]:
    sums = compared(subject.model, windows, runs, sequences.points)
    return {name: own.numbers() for name, own in sums.items()}


def _ablations(subject: Subject) -> dict[str, Changed]:
    own = subject.dictionary
    return {"live": replacement(own), **ablations(own.design.targets, subject.fitted.mean)}


def _written(subject: Subject, part: Part) -> np.ndarray:
    return np.asarray(apply(subject.dictionary, part.batch.x, part.batch.chosen).written)


def _frozen(subject: Subject, plain: Plain, attention: list[HookPoint]) -> Edits:
    held = put({point: plain.kept[point] for point in attention})
    return held + replacement(subject.dictionary)
