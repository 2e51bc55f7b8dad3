"""Many runs of one prompt that are forked from its plain run at some layer, computed together.

A run that is changed in layer l alone equals the plain run before l. So all runs go through the
layers in one pass: at layer l the runs that are forked there start from the plain run's residual
stream, join the other runs, and all go through the layer in batches. Weights are read once a
layer, however many runs there are.

Axes: R runs, B runs of a batch, N padded tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.architecture import Cache
from grok.engine.compiled import bucket, counted, padded
from grok.engine.interfaces import Part, Walk
from grok.engine.progress import Watch
from grok.experiments.metrics import Metric
from grok.interventions.hooks import NO_SITE_EDITS, EditsBySite

if TYPE_CHECKING:
    from grok.runner.model import Model

Progress = Callable[[int, int], object]
Turn = Callable[[], AbstractContextManager[object]]
# Makes the edits of runs that are forked at a layer, of their indexes there [B].
MakeEdits = Callable[[np.ndarray], EditsBySite]

BATCH_TOKENS = 1024
MOST_RUNS = 64


class Forks(NamedTuple):
    """The runs that are forked at one layer.

    Attributes:
        n_runs: their number, R.
        edits: makes the edits of some of them.
    """

    n_runs: int
    edits: MakeEdits


class ForkedRuns:
    """Runs of one prompt that are forked from its plain run.

    Args:
        model: on its devices.
        tokens: of the prompt [T].
        batch: runs computed together; by default as many as make about a thousand tokens.
    """

    def __init__(self, model: Model, tokens: np.ndarray, batch: int | None = None) -> None:
        self.model, self.length = model, tokens.size
        self.n = bucket(tokens.size)
        pad = model.engine.architecture.pad_token
        self.padded, _, self._keys = padded([tokens], self.n, pad)
        self._counted = counted(tokens, self.n, pad)
        usual = min(MOST_RUNS, max(1, BATCH_TOKENS // self.n))
        self.batch = usual if batch is None else max(1, batch)
        self._caches: dict[int, Cache] = {}

    def run(
        self,
        forks: Mapping[int, Forks],
        metric: Metric,
        reference: np.ndarray,
        *,
        progress: Progress | None = None,
        turn: Turn = nullcontext,
    ) -> tuple[float, dict[int, np.ndarray]]:
        """The metric of the plain run, and of every run that is forked from it.

        Args:
            forks: by layer.
            metric: of the logits of a run.
            reference: logits [T, V] that the metric compares with.
            progress: told (done, total) in layers of runs; what it raises ends the sweep.
            turn: entered around each layer's work.

        Returns:
            The plain run's value; by layer the values [R].
        """
        n_layers = self.model.config.n_layers
        passes = self.passes({layer: own.n_runs for layer, own in forks.items()})
        of_runs = sum(own.n_runs * (n_layers - layer) for layer, own in forks.items())
        total = n_layers * len(passes) + of_runs
        done = 0

        def tell(runs: int) -> None:
            nonlocal done
            done += runs
            if progress is not None:
                progress(min(done, total), total)

        found = {layer: np.zeros(own.n_runs) for layer, own in forks.items()}
        plain = 0.0
        for own in passes:
            origin, rows = self._pass(own, forks, turn, tell)
            with turn():
                plain, *values = self._judged(rows, metric, reference).tolist()
            for (layer, i), value in zip(origin, values, strict=True):
                found[layer][i] = value
        return plain, found

    def passes(self, counts: Mapping[int, int]) -> list[dict[int, range]]:
        """Runs by layer for each pass: all in one where there is room for them."""
        rows = self.model.engine.layers.max_rows()
        most = None if rows is None else max(2, rows // self._counted) - 1
        passes: list[dict[int, range]] = [{}]
        room = most
        for layer, count in sorted(counts.items()):
            first = 0
            while first < count:
                if room == 0:
                    passes.append({})
                    room = most
                last = count if room is None else min(count, first + room)
                passes[-1][layer] = range(first, last)
                room = None if room is None else room - (last - first)
                first = last
        return passes

    def _pass(
        self,
        own: Mapping[int, range],
        forks: Mapping[int, Forks],
        turn: Turn,
        tell: Callable[[int], None],
    ) -> tuple[list[tuple[int, int]], np.ndarray]:
        """(layer, index) of each run of a pass, and the streams [1 + R, N, D] after the last
        layer, the plain run's first."""
        engine, n_layers = self.model.engine, self.model.config.n_layers
        with turn():
            rows = np.asarray(engine.embed_unembed.embed(self.padded, np.int32(0), NO_SITE_EDITS))
        origin: list[tuple[int, int]] = []
        watch = Watch(n_layers)
        most = (1 + sum(map(len, own.values()))) * self._counted
        with engine.layers.walk(most, 0, watch if engine.tells else None, logits=False) as walk:
            for layer in range(n_layers):
                with turn():
                    which = np.array(own.get(layer, range(0)), int)
                    make = forks.get(layer, NO_FORKS).edits
                    new = np.repeat(rows[:1], len(which), axis=0)
                    rows = self._layer(walk, layer, rows, new, which, make, tell)
                origin += [(layer, int(i)) for i in which]
                if engine.tells:
                    watch.tell(layer + 1, walk.bytes_read)
        return origin, rows

    def _layer(
        self,
        walk: Walk,
        layer: int,
        rows: np.ndarray,
        new: np.ndarray,
        indexes: np.ndarray,
        make: MakeEdits,
        tell: Callable[[int], None],
    ) -> np.ndarray:
        """Streams [R, N, D] after a layer: of the runs so far, then of those forked here.

        Args:
            walk, layer, tell: see `_pass`.
            rows: streams of the runs so far, the plain run's first.
            new: streams of the runs forked here.
            indexes: of the runs forked here.
            make: makes their edits.
        """
        batches = [(rows, which, NO_SITE_EDITS) for which in self._batches(len(rows))]
        batches += [(new, which, make(indexes[which])) for which in self._batches(len(new))]
        parts = (self._part(streams[which], which, edits) for streams, which, edits in batches)
        results: list[list[np.ndarray]] = [[], []]
        for (streams, which, _), done in zip(batches, walk.layer(layer, parts), strict=True):
            self._caches[len(which)] = done.cache
            results[streams is new].append(done.h)
            tell(len(np.unique(which)))
        return np.concatenate(
            [
                np.concatenate([np.asarray(h) for h in found])[: len(streams)]
                for streams, found in zip((rows, new), results, strict=True)
                if found
            ]
        )

    def _part(self, streams: np.ndarray, which: np.ndarray, edits: EditsBySite) -> Part:
        b = len(which)
        first = np.concatenate([[True], which[1:] != which[:-1]])  # the others fill up
        real = first[:, None] & (np.arange(self.n) < self._counted)
        keys = np.repeat(self._keys, b, axis=0)
        return Part(streams, np.int32(0), keys, self._cache(b), edits, real=real)

    def _batches(self, count: int) -> list[np.ndarray]:
        """Indexes 0 … count - 1 in batches of two sizes; the last repeats its last index."""
        small = max(1, self.batch // 4)
        found = []
        for first in range(0, count, self.batch):
            left = min(self.batch, count - first)
            sizes = [small] * -(-left // small) if left <= 2 * small else [self.batch]
            for size in sizes:
                found.append(np.minimum(np.arange(first, first + size), count - 1))
                first += size
        return found

    def _cache(self, b: int) -> Cache:
        known = self._caches.pop(b, None)  # it is given away; its values are written anew
        return known or self.model.engine.cache(b, self.n)

    def _judged(self, rows: np.ndarray, metric: Metric, reference: np.ndarray) -> np.ndarray:
        if metric.everywhere:
            compared = np.zeros((self.n, reference.shape[-1]), np.float32)
            compared[: self.length] = reference[: self.length]
        else:
            rows = rows[:, self.length - 1 : self.length]
            compared = reference[self.length - 1 : self.length]
        judge = partial(self.model.engine.embed_unembed.of_logits, judged)
        length = np.int32(self.length if metric.everywhere else 1)
        values = [
            judge(rows[which], compared, length, metric) for which in self._batches(len(rows))
        ]
        return np.concatenate([np.asarray(one, np.float64) for one in values])[: len(rows)]


def _no_edits(which: np.ndarray) -> EditsBySite:
    return NO_SITE_EDITS


NO_FORKS = Forks(0, _no_edits)


def judged(logits: jax.Array, reference: jax.Array, length: jax.Array, metric: Metric) -> jax.Array:
    """The metric of one run's logits [N, V] against the reference's; N is 1 for the last token."""
    expected = jax.nn.log_softmax(reference.astype(jnp.float32), axis=-1)
    found = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    each = jax.vmap(lambda a, b: metric.function(a, b, *metric.tokens))(found, expected)
    return jnp.sum(jnp.where(jnp.arange(len(logits)) < length, each, 0.0)) / length
