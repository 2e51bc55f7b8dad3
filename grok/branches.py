"""Many runs of one prompt that part at some layer, computed together.

A run that is changed in layer l alone equals the plain run before l. So the layers are walked
through once: at layer l the runs that part there start from the plain run's residual stream,
join the runs under way, and all go through the layer in batches. Weights are touched once a
layer, however many runs there are.

Axes: R runs, B runs of a batch, N padded tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from grok import forward
from grok.checkpoint import EMBEDDING
from grok.metrics import Metric
from grok.modules import Cache
from grok.passes import AS_WRITTEN, bucket, embed_pass, layer_pass
from grok.visits import NOTHING, EditsBySite

if TYPE_CHECKING:
    from grok.model import Model

Progress = Callable[[int, int], object]
Turn = Callable[[], AbstractContextManager[object]]
# Edits of the runs that part at a layer: called with their indexes there, B of them.
MakeEdits = Callable[[np.ndarray], EditsBySite]

BATCH_TOKENS = 1024
MOST_RUNS = 64
# Logits that are held at once while a metric is computed.
HELD_LOGITS = 2**26


class Branches:
    """Runs that start from one prompt.

    Args:
        model: on its devices.
        tokens: of the prompt [T].
        batch: runs computed together; by default as many as make about a thousand tokens.
    """

    def __init__(self, model: Model, tokens: np.ndarray, batch: int | None = None) -> None:
        self.model, self.length = model, tokens.size
        self.n = bucket(tokens.size)
        self.padded = np.zeros((1, self.n), np.int32)
        self.padded[0, : tokens.size] = tokens
        usual = min(MOST_RUNS, max(1, BATCH_TOKENS // self.n))
        self.batch = usual if batch is None else max(1, batch)
        self._caches: dict[int, Cache] = {}

    def run(
        self,
        parting: Mapping[int, tuple[int, MakeEdits]],
        metric: Metric,
        reference: np.ndarray,
        *,
        progress: Progress | None = None,
        turn: Turn = nullcontext,
    ) -> tuple[float, dict[int, np.ndarray]]:
        """The metric of the plain run, and of every run that parts from it.

        Args:
            parting: for each layer the number of runs that part there, and their edits.
            metric: what a run is judged by.
            reference: logits [T, V] that the metric compares with.
            progress: told (done, total) in layers of runs; what it raises ends the sweep.
            turn: entered around each layer's work.

        Returns:
            The plain run's value; by layer the values [R].
        """
        config, n_layers = self.model.config, self.model.config.n_layers
        total = n_layers + sum(r * (n_layers - layer) for layer, (r, _) in parting.items())
        done = 0

        def tell(runs: int) -> None:
            nonlocal done
            done += runs
            if progress is not None:
                progress(min(done, total), total)

        with turn():
            io = {EMBEDDING: self.model._io[EMBEDDING]}
            rows = np.asarray(embed_pass(config, io, self.padded, self.model.dtype))
        origin: list[tuple[int, int]] = [(-1, 0)]  # (layer, index) of each row; the plain run
        for layer in range(n_layers):
            with turn():
                count, make = parting.get(layer, (0, _none))
                new = self._layer(layer, np.repeat(rows[:1], count, axis=0), make, tell)
                rows = np.concatenate([self._layer(layer, rows, _none, tell), new])
            origin += [(layer, i) for i in range(count)]
        with turn():
            values = self._judged(rows, metric, reference)
        found = {layer: np.zeros(count) for layer, (count, _) in parting.items()}
        for (layer, i), value in zip(origin[1:], values[1:], strict=True):
            found[layer][i] = value
        return float(values[0]), found

    def _layer(
        self, layer: int, rows: np.ndarray, make: MakeEdits, tell: Callable[[int], None]
    ) -> np.ndarray:
        """Rows [R, N, D] after a layer with their edits."""
        results = []
        for which in self._batches(len(rows)):
            b = len(which)
            h, _, self._caches[b], _ = layer_pass(
                self.model.config,
                self.model._layers[layer],
                rows[which],
                np.int32(0),
                np.repeat(self.padded > 0, b, axis=0),
                self._cache(b),
                self.model._dispatch,
                self.model.mesh,
                make(which),
            )
            results.append(h)
            tell(len(np.unique(which)))
        if not results:
            return rows
        return np.concatenate([np.asarray(h) for h in results])[: len(rows)]

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
        dtype = jnp.dtype(self.model.dtype)
        return known or forward.empty_cache(self.model.config, b, self.n, dtype)

    def _judged(self, rows: np.ndarray, metric: Metric, reference: np.ndarray) -> np.ndarray:
        if metric.everywhere:
            compared = np.zeros((self.n, reference.shape[-1]), np.float32)
            compared[: self.length] = reference[: self.length]
        else:
            rows = rows[:, self.length - 1 : self.length]
            compared = reference[self.length - 1 : self.length]
        values = [
            judge_pass(
                self.model.config,
                self.model._io,
                rows[which],
                compared,
                np.int32(self.length if metric.everywhere else 1),
                metric,
                self.model.dtype,
            )
            for which in self._batches(len(rows))
        ]
        return np.concatenate([np.asarray(one, np.float64) for one in values])[: len(rows)]


def _none(which: np.ndarray) -> EditsBySite:
    return NOTHING


@partial(jax.jit, static_argnames=("config", "dtype"), compiler_options=AS_WRITTEN)
def judge_pass(
    config: Any,
    params: Any,
    h: jax.Array,
    reference: jax.Array,
    length: jax.Array,
    metric: Metric,
    dtype: str,
) -> jax.Array:
    """A metric [B] of residual streams [B, N, D] against logits [N, V]; N is 1 for the last
    token alone."""
    expected = jax.nn.log_softmax(reference.astype(jnp.float32), axis=-1)
    inside = jnp.arange(h.shape[1]) < length

    def one(stream: jax.Array) -> jax.Array:
        logits = forward.unembed(config, params, stream[None], jnp.dtype(dtype))[0]
        found = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        each = jax.vmap(lambda a, b: metric.function(a, b, *metric.tokens))(found, expected)
        return jnp.sum(jnp.where(inside, each, 0.0)) / length

    together = max(1, HELD_LOGITS // (h.shape[1] * reference.shape[-1]))
    return jax.lax.map(one, h, batch_size=min(together, h.shape[0]))
