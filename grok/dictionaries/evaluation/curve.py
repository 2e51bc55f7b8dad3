"""Error, routes and loss against the number of active features, beside controls on the same tokens.

Axes: M sites written, B tokens, D width, G groups, N levels, L layers with a router.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from grok.dictionaries.evaluation.controls import Fitted
from grok.dictionaries.evaluation.levels import Level, at_l0
from grok.dictionaries.evaluation.methods import (
    Given,
    Method,
    OfAxes,
    OfDictionary,
    Sequences,
    by_target,
    neurons_of,
    shuffled,
    whole,
)
from grok.dictionaries.evaluation.neurons import Neurons, has_neurons
from grok.dictionaries.evaluation.routing import Routers, Routes, largest
from grok.dictionaries.evaluation.spliced import compared
from grok.dictionaries.evaluation.sums import Reconstruction, mean_active
from grok.dictionaries.evaluation.tokens import Part, parts, spread
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.training.source import Computed
from grok.dictionaries.training.windows import Windows, evenly
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

LEVELS = (4.0, 8.0, 16.0, 32.0)
OWN = "own"
NEAR = 0.1  # a level so near to the dictionary's own says nothing new
SAMPLE = 2048


@dataclass(frozen=True)
class Subject:
    """A dictionary in its model, with text.

    Attributes:
        model: that the dictionary is for.
        dictionary: to be measured.
        fit: text of training.
        held_out: other text.
        fitted: what needs no dictionary, fitted on `fit`.
        batch: tokens that are computed together.
    """

    model: Model
    dictionary: Dictionary
    fit: Windows
    held_out: Windows
    fitted: Fitted
    batch: int

    def parts(self, windows: Windows, most: int, others: Sequence[HookPoint]) -> Iterator[Part]:
        """Some tokens of one of the texts with their values."""
        places = spread(windows, most, self.dictionary.skipped)
        return parts(self.model, self.dictionary.design, windows, places, self.batch, others)

    def sample(self, others: Sequence[HookPoint] = ()) -> Part:
        """Tokens of training text that thresholds and biases are chosen on."""
        places = spread(self.fit, SAMPLE, self.dictionary.skipped)
        design = self.dictionary.design
        return next(parts(self.model, design, self.fit, places, SAMPLE, others))

    def sequences(self, most: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Whole windows of the held-out text, spread over it, and the label of each."""
        lengths = self.held_out.lengths
        full = np.flatnonzero(lengths == lengths.max())
        some = full[evenly(len(full), max(1, most // int(lengths.max())))]
        return [self.held_out.tokens[i] for i in some], self.held_out.labels[some]


@dataclass
class _Row:
    """One method at one level, and what is summed for it."""

    method: Method
    level: int
    asked: str
    reconstruction: Reconstruction
    routes: Routes = field(default_factory=Routes)
    active: Any = 0.0

    def add(self, part: Part, routers: Routers | None) -> None:
        found = self.method.written(part, self.level)
        self.reconstruction.add(np.asarray(part.batch.y), found.values)
        self.active = self.active + found.l0 * len(part.tokens)
        if routers is not None:
            plain = np.stack([part.values[point] for point in routers.points[::2]])
            experts = np.stack([part.values[point] for point in routers.points[1::2]])
            logits = routers.logits(found.values)
            self.routes.add(plain, logits, [experts, largest(logits, experts.shape[-1])])

    def numbers(self) -> dict[str, Any]:
        own, l0 = self.reconstruction.numbers(), self.active / self.reconstruction.n
        out = {
            "method": self.method.name,
            "level": self.asked,
            "l0": [*l0.tolist(), float(l0.mean())],
            **{name: own[name] for name in ("fvu", "cosine", "norm_ratio")},
        }
        return out | ({"routers": self.routes.numbers()} if self.routes.n else {})


def curve(
    subject: Subject, others: Mapping[str, Dictionary], tokens: int, spliced: int
) -> dict[str, Any]:
    """The dictionary and its controls at several numbers of active features.

    Thresholds are scaled for it, not trained: see `grok.dictionaries.evaluation.levels`.

    Args:
        subject: the dictionary.
        others: control dictionaries of the same design, each brought to the same numbers.
        tokens: held-out tokens that are reconstructed.
        spliced: held-out tokens that run through changed models.
    """
    design = subject.dictionary.design
    neurons = Neurons(subject.model, design) if has_neurons(subject.model, design) else None
    points = neurons.points if neurons else ()
    sample = subject.sample(points)
    levels, asked = _levels(subject.dictionary, sample)
    windows, labels = subject.sequences(spliced) if spliced else ([], np.zeros(0, int))
    sequences = Sequences(design, windows, labels, points)
    made = _methods(subject, levels, sequences, sample, neurons, others)
    routers = _routers(subject)
    rows = [
        _Row(method, level, name, Reconstruction(subject.fitted.mean))
        for method in made
        for level, name in enumerate(asked)
        if level == 0 or method.name not in WITHOUT_LEVELS
    ]
    wanted = (*points, *(routers.points if routers else ()))
    for part in subject.parts(subject.held_out, tokens, wanted):
        for row in rows:
            row.add(part, routers)
    found = [row.numbers() for row in rows]
    runs = {} if not windows else {i: row.method.changed(row.level) for i, row in enumerate(rows)}
    changed = {str(i): run for i, run in runs.items() if run is not None}
    for name, sums in compared(subject.model, windows, changed, sequences.points).items():
        found[int(name)]["spliced"] = {"mode": rows[int(name)].method.mode, **sums.numbers()}
    n = rows[0].reconstruction.n
    return {"tokens": n, "spliced_tokens": sum(map(len, windows)), "rows": found}


WITHOUT_LEVELS = ("token_mean", "bigram_mean", "shuffled")


def _levels(dictionary: Dictionary, sample: Part) -> tuple[list[Level], list[str]]:
    """The dictionary as it is and at other levels, and their names."""
    found = apply(dictionary, sample.batch.x, sample.batch.chosen)
    own = mean_active(found.features)
    most = dictionary.design.features
    asked = [k for k in LEVELS if k < most and abs(k - own.mean()) > NEAR * own.mean()]
    levels = [Level(dictionary, own), *at_l0(dictionary, sample.batch, asked)]
    return levels, [OWN, *(f"{k:g}" for k in asked)]


def _methods(
    subject: Subject,
    levels: Sequence[Level],
    sequences: Sequences,
    sample: Part,
    neurons: Neurons | None,
    others: Mapping[str, Dictionary],
) -> list[Method]:
    design, fitted = subject.dictionary.design, subject.fitted
    active = [by_target(design, level.l0) for level in levels]
    none = [np.zeros(len(design.targets))] * len(levels)
    found: list[Method] = [
        OfDictionary("dictionary", levels),
        OfAxes("pca_best", design, fitted, active),
        OfAxes("pca_first", design, fitted, active),
    ]
    if neurons is not None:
        neurons.fit(sample, [whole(level) for level in active])
        found.append(Given("neurons", neurons_of(neurons, active), sequences, active))
    for name, own in others.items():
        l0 = [level.l0 for level in levels]
        found.append(OfDictionary(name, at_l0(own, sample.batch, l0)))

    def of_another(part: Part, level: int) -> np.ndarray:
        written = apply(subject.dictionary, part.batch.x, part.batch.chosen).written
        return shuffled(np.asarray(written), part)

    given = {
        "token_mean": lambda part, level: fitted.token_mean(part.tokens),
        "bigram_mean": lambda part, level: fitted.bigram_mean(part.previous, part.tokens),
        "shuffled": of_another,
    }
    found += [Given(name, make, sequences, none) for name, make in given.items()]
    return found


def _routers(subject: Subject) -> Routers | None:
    """The routers that read what the dictionary reconstructs, where they do."""
    design, model = subject.dictionary.design, subject.model
    reads = all(point.site == "resid_mid" for point in design.targets)
    routed = set(design.layers) <= set(model.config.moe_layers)
    if not (reads and routed) or model.engine.architecture.has_choice_values:
        return None
    return Routers(Computed(model, subject.fit), subject.fit.lengths, design.layers)
