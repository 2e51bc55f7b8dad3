"""Ways to reconstruct values, each at several numbers of active features: dictionaries, controls.

A method that needs only what stands in a run replaces it live; others are put in place of what
the plain run had ("offline"), since they are made from its values.

Axes: M sites written, B tokens, T tokens of a sequence, D width, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from grok.dictionaries.evaluation.controls import Fitted
from grok.dictionaries.evaluation.levels import Level
from grok.dictionaries.evaluation.neurons import Neurons
from grok.dictionaries.evaluation.replacing import on_best_axes, put, replacement
from grok.dictionaries.evaluation.spliced import Changed, Plain
from grok.dictionaries.evaluation.sums import mean_active
from grok.dictionaries.evaluation.tokens import NONE_BEFORE, Part, batch_of, points_of
from grok.dictionaries.kinds.design import Design
from grok.dictionaries.kinds.inference import apply
from grok.interventions.sites import HookPoint

LIVE, OFFLINE = "live", "offline"


class Written(NamedTuple):
    """values: reconstructions [M, B, D]; l0: active features of a token, by target [M]."""

    values: np.ndarray
    l0: np.ndarray


class Method(Protocol):
    """One way to reconstruct, at levels that are counted from 0."""

    name: str
    mode: str

    def written(self, part: Part, level: int) -> Written: ...

    def changed(self, level: int) -> Changed | None:
        """The model in which it stands for the values; None where it cannot."""
        ...


class OfDictionary:
    """A dictionary at its levels, in the run itself."""

    mode = LIVE

    def __init__(self, name: str, levels: Sequence[Level]) -> None:
        self.name, self._levels = name, levels

    def written(self, part: Part, level: int) -> Written:
        own = self._levels[level].dictionary
        found = jax.device_get(apply(own, part.batch.x, part.batch.chosen))
        return Written(found.written, by_target(own.design, mean_active(found.features)))

    def changed(self, level: int) -> Changed | None:
        own = self._levels[level].dictionary
        return None if own.design.kind == "crosscoder" else replacement(own)


class OfAxes:
    """Principal axes, those that are largest in each token or the first ones."""

    mode = LIVE

    def __init__(
        self, name: str, design: Design, fitted: Fitted, levels: Sequence[np.ndarray]
    ) -> None:
        self.name, self._design, self._fitted, self._levels = name, design, fitted, levels

    def written(self, part: Part, level: int) -> Written:
        k = whole(self._levels[level])
        y = np.asarray(part.batch.y)
        best = self.name == "pca_best"
        found = self._fitted.best_axes(y, k) if best else self._fitted.first_axes(y, k)
        return Written(found, k.astype(float))

    def changed(self, level: int) -> Changed | None:
        if self.name != "pca_best":
            return None
        own = self._fitted
        return on_best_axes(self._design.targets, own.mean, own.axes, whole(self._levels[level]))


class Given:
    """What follows from values of the plain run, put in their place.

    Attributes:
        name: of the method.
        make: (part, level) -> reconstructions [M, B, D].
        others: points that it needs beside those of the dictionary.
    """

    mode = OFFLINE

    def __init__(
        self,
        name: str,
        make: Callable[[Part, int], np.ndarray],
        sequences: Sequences,
        levels: Sequence[np.ndarray],
    ) -> None:
        self.name, self._make, self._sequences, self._levels = name, make, sequences, levels

    def written(self, part: Part, level: int) -> Written:
        return Written(self._make(part, level), whole(self._levels[level]).astype(float))

    def changed(self, level: int) -> Changed | None:
        return self._sequences.put(lambda part: self._make(part, level))


class Sequences:
    """Turns a batch of sequences of the plain run into tokens, and values of those back.

    Args:
        design: whose sites are needed.
        windows: token ids of each sequence.
        labels: of each sequence.
        others: points that are needed beside those of the design.

    Attributes:
        points: all that are needed.
    """

    def __init__(
        self,
        design: Design,
        windows: Sequence[np.ndarray],
        labels: np.ndarray,
        others: Sequence[HookPoint] = (),
    ) -> None:
        self._design, self._windows, self._labels = design, windows, labels
        self.points = points_of(design, others)

    def part(self, plain: Plain) -> Part:
        """All positions of a batch as tokens [B·T], padding included."""
        t = plain.padded
        tokens: np.ndarray = np.zeros((len(plain.windows), t), np.int64)
        for row, which in enumerate(plain.windows):
            own = self._windows[which]
            tokens[row, : len(own)] = own
        previous = np.concatenate([np.full((len(tokens), 1), NONE_BEFORE), tokens[:, :-1]], axis=1)
        flat = {point: value.reshape(-1, *value.shape[2:]) for point, value in plain.kept.items()}
        window: np.ndarray = np.repeat(np.asarray(plain.windows), t)
        return Part(
            batch_of(self._design, flat),
            tokens.ravel(),
            previous.ravel(),
            self._labels[window],
            window,
            flat,
        )

    def by_point(self, plain: Plain, values: np.ndarray) -> dict[HookPoint, np.ndarray]:
        """Values [M, B·T, D] by target, as [B, T, D]."""
        shape = (len(plain.windows), plain.padded, values.shape[-1])
        pairs = zip(self._design.targets, values, strict=True)
        return {point: value.reshape(shape) for point, value in pairs}

    def put(self, make: Callable[[Part], np.ndarray]) -> Changed:
        """Runs in which what `make` gives for the plain run's tokens stands at the targets."""
        return lambda plain: put(self.by_point(plain, make(self.part(plain))))


def by_target(design: Design, active: np.ndarray) -> np.ndarray:
    """Active features that a target has: of its layer's group [M], or of the only group."""
    n = len(design.targets)
    return np.full(n, active[0]) if len(active) == 1 else np.asarray(active)


def whole(level: np.ndarray) -> np.ndarray:
    """The nearest whole numbers."""
    return np.asarray(np.round(level), int)


def shuffled(values: np.ndarray, part: Part) -> np.ndarray:
    """Reconstructions [M, B, D] of other tokens of the same window, which is of one domain."""
    order = np.arange(len(part.window))
    for window in np.unique(part.window):
        here = np.flatnonzero(part.window == window)
        order[here] = here[np.random.default_rng([0, int(window)]).permutation(len(here))]
    return values[:, order]


def neurons_of(neurons: Neurons, levels: Sequence[np.ndarray]) -> Callable[[Part, int], np.ndarray]:
    """(part, level) -> reconstructions by neurons; all levels of a part are made at once."""
    last: list[tuple[Part, np.ndarray]] = []
    numbers = [whole(level) for level in levels]

    def make(part: Part, level: int) -> np.ndarray:
        if not last or last[0][0] is not part:
            last[:] = [(part, neurons.written(part, numbers))]
        return np.asarray(last[0][1][level])

    return make
