"""Decoder layers of a Hugging Face folder on disk, read expert by expert.

A layer's fixed part is what every token passes through: norms, attention, router, shared expert,
or its dense block. It stays in memory once it was read, as far as there is room; what is left keeps
experts. Of these those are read that the tokens at hand chose and that are not held from before.
Where nearly all will be chosen, the reader runs ahead over whole layers; else it asks for the
chosen ones once the router has spoken, and for the next layer's fixed part behind them.
Weights stay in their stored form, 8 and 4 bits too, up to the product that needs them; they are
copied once, out of the reader's buffer to where they are computed with and kept. An expert's
products run while the next one's bytes are read and copied.

Axes: N token rows of all batches, C rows of one expert, K experts a token, D d_model.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grok.architectures.architecture import Architecture
from grok.architectures.moe import ExpertForm, Experts, expert_output
from grok.checkpoints.safetensors_folder import SafetensorsFolder
from grok.checkpoints.tensor_spec import TensorSpec, oriented
from grok.engine.compiled import AS_WRITTEN
from grok.engine.interfaces import Done, LayerFigures, Part
from grok.engine.progress import Watch
from grok.engine.resident import through_layer
from grok.engine.sharding import dispatch_over, put_on_devices
from grok.streaming.by_expert.cache import ExpertCache
from grok.streaming.by_expert.memory import (
    NEARLY_ALL,
    expert_sizes,
    most_expert_rows,
    weights_at_once,
)
from grok.streaming.by_expert.pieces import layer_pieces
from grok.streaming.by_expert.places import Places
from grok.streaming.half_layer import around_experts
from grok.streaming.read_ahead import Buffers, Piece, ReadAhead
from grok.streaming.taken import Taken

DIRECT_BYTES = 4 * 2**30
RUNNING = 1  # experts whose products run while the next one's weights are brought
MANY = 32  # rows of an expert up to which its weights are most of the work


class ExpertLayers:
    """`grok.engine.interfaces.Layers` of a folder on disk.

    Attributes:
        memory_budget: bytes that the process may take.
        last_pass: figures of each layer of the last pass.
        fixed, cache: fixed parts and experts that are kept.
        places: where weights lie.

    Raises:
        DeviceError: the budget is too small.
        CheckpointError: a tensor is missing, or is not what the config says; only headers are read.
    """

    def __init__(
        self,
        folder: SafetensorsFolder,
        architecture: Architecture,
        dtype: str,
        mesh: Mesh,
        budget: int,
    ) -> None:
        self.folder, self.architecture = folder, architecture
        self.dtype, self.mesh, self.memory_budget = dtype, mesh, budget
        self.specs = [architecture.layer_specs(i) for i in range(architecture.config.n_layers)]
        self.pieces = [layer_pieces(folder, layer, own) for layer, own in enumerate(self.specs)]
        every = [piece for own in self.pieces for several in own.values() for piece in several]
        self.largest = max(piece.n_bytes for piece in every)
        files = {piece.tensor.file for piece in every}
        self.direct = sum(file.stat().st_size for file in files) > DIRECT_BYTES
        self._all_fixed = sum(
            piece.n_bytes
            for own in self.pieces
            for (expert, _), pieces in own.items()
            if expert < 0
            for piece in pieces
        )
        self.fixed, self.cache = ExpertCache(0), ExpertCache(0)
        self._at_once = weights_at_once(architecture)
        self.places = Places(0)
        self._keep(expert_sizes(architecture, budget, self.largest).cache)
        self.last_pass: list[LayerFigures] = []
        self._one_walk = threading.Lock()
        self._kept: Buffers | None = None

    def max_rows(self, kept_bytes: int = 0) -> int:
        """As `Layers.max_rows`."""
        return most_expert_rows(self.architecture, self.memory_budget, self.largest, kept_bytes)

    def _keep(self, n_bytes: int) -> None:
        """Keep at most so much from pass to pass from now on."""
        self.fixed.resize(min(n_bytes, self._all_fixed))
        self.cache.resize(n_bytes - self.fixed.max_bytes)
        self.places.resize(n_bytes + self._at_once)

    def buffers(self, n: int) -> Buffers:
        """Memory that pieces are read into, the same from pass to pass where the number is."""
        if self._kept is None or self._kept.n != n:
            self._kept = None
            self._kept = Buffers(n, self.largest)
        return self._kept

    @contextmanager
    def walk(
        self,
        n_rows: int,
        first: int = 0,
        watch: Watch | None = None,
        *,
        logits: bool = True,
        n_padded: int | None = None,
        kept_bytes: int = 0,
    ) -> Iterator[_Walk]:
        """A pass from layer `first` on; one at a time, or memory would be taken twice."""
        spent = expert_sizes(
            self.architecture,
            self.memory_budget,
            self.largest,
            max(n_rows, n_padded or 0),
            logits=logits,
            kept_bytes=kept_bytes,
        )
        config = self.architecture.config
        share = 1 - (1 - config.top_k / config.n_experts) ** n_rows
        with self._one_walk:
            self._keep(spent.cache)
            unused: set[tuple[int, int]] = set()

            def unwanted(piece: Piece) -> bool:
                return piece.key[:2] in unused

            with ReadAhead(
                self.buffers(spent.n_buffers), direct=self.direct, unwanted=unwanted
            ) as reader:
                yield _Walk(self, reader, share < NEARLY_ALL, first, unused, watch)


class _Walk:
    """One pass; see `grok.engine.resident.Walk`."""

    def __init__(
        self,
        layers: ExpertLayers,
        reader: ReadAhead,
        few: bool,
        first: int,
        unused: set[tuple[int, int]],
        watch: Watch | None,
    ) -> None:
        self._layers, self._reader, self._few = layers, reader, few
        self._unused, self._watch = unused, watch
        self._taken = Taken(reader, unused)
        self._dispatch = dispatch_over(layers.mesh)
        layers.last_pass = []
        last = layers.architecture.config.n_layers
        if few:
            reader.ask(self._fixed(first))
        else:
            # Held experts are not read; held they stay, for no expert is let go in such a pass.
            reader.ask(piece for i in range(first, last) for piece in self._whole(i))

    @property
    def bytes_read(self) -> int:
        return self._reader.bytes_read

    def layer(self, layer: int, parts: Iterable[Part]) -> Iterator[Done]:
        layers = self._layers
        hits, misses = layers.cache.hits, layers.cache.misses
        self._taken.begin()
        architecture = layers.architecture.at(layer)
        params = self._fixed_weights(layer)
        if layer in architecture.config.moe_layers:
            experts = partial(self._experts, layer)
            yield from around_experts(architecture, layers.dtype, params, parts, experts)
        else:
            if self._few:
                self._ask_next(layer)
            for part in parts:
                yield through_layer(architecture, params, part, self._dispatch, layers.mesh)
        found = self._taken.figures(layer, layers.cache.hits - hits, layers.cache.misses - misses)
        layers.last_pass.append(found)

    # reading

    def _fixed(self, layer: int) -> Iterator[Piece]:
        """The parts of a layer that every token passes through, where they are not held."""
        if (layer, -1) in self._layers.fixed:
            return
        for (expert, _), pieces in self._layers.pieces[layer].items():
            if expert < 0:
                yield from pieces

    def _whole(self, layer: int) -> Iterator[Piece]:
        yield from self._fixed(layer)
        if layer in self._layers.architecture.config.moe_layers:
            for expert in range(self._layers.architecture.config.n_experts):
                if (layer, expert) not in self._layers.cache:
                    yield from self._of_expert(layer, expert)

    def _of_expert(self, layer: int, expert: int) -> Iterator[Piece]:
        for spec in self._expert_specs(layer):
            yield from self._layers.pieces[layer][expert, spec.leaf]

    def _expert_specs(self, layer: int) -> list[TensorSpec]:
        return [spec for spec in self._layers.specs[layer] if spec.per_expert]

    def _ask_next(self, layer: int) -> None:
        if layer + 1 < self._layers.architecture.config.n_layers:
            self._reader.ask(self._fixed(layer + 1))

    def _read(self, layer: int, expert: int, spec: TensorSpec) -> Any:
        """A parameter, or one expert's, as the program uses it; quantized as it is stored.

        Raises:
            CheckpointError: it cannot be read, or its values are not finite.
        """
        arrays = []
        for piece in self._layers.pieces[layer][expert, spec.leaf]:
            filled = self._taken.piece(piece.key)
            where = piece.tensor.weight
            sliced = spec.per_expert and len(spec.names) == 1
            shape = where.shape[1:] if sliced else where.shape
            own = self._layers.places.room(shape, where.dtype)
            own.reshape(-1).view(np.uint8)[:] = filled.bytes
            self._reader.give(filled)
            arrays.append(own)
        name = spec.names[expert if len(spec.names) > 1 else 0]
        stored = self._layers.folder.whole(name, arrays)
        return oriented(spec, stored)

    def _fixed_weights(self, layer: int) -> Mapping[str, Any]:
        """A layer's fixed part by leaf, from memory or as it comes from disk."""
        layers = self._layers
        held = layers.fixed.get((layer, -1))
        if held is None:
            held = {
                spec.leaf: put_on_devices(spec, self._read(layer, -1, spec), layers.mesh)
                for spec in layers.specs[layer]
                if not spec.per_expert
            }
            # Every pass needs all: one that another pushed out would only be read again.
            layers.fixed.put((layer, -1), held, evict=False)
        return held

    # the experts

    def _experts(
        self, layer: int, x: np.ndarray, experts: np.ndarray, gates: np.ndarray, summed: bool
    ) -> np.ndarray:
        """Gate-weighted sum of the chosen experts' outputs [N, D], or those apart [N, K, D]."""
        layers = self._layers
        form = layers.architecture.expert_products.form
        n_experts = layers.architecture.config.n_experts
        used = [e for e in range(n_experts) if (experts == e).any()]
        if self._few:
            missing = [e for e in used if (layer, e) not in layers.cache]
            self._reader.ask([piece for e in missing for piece in self._of_expert(layer, e)])
            self._ask_next(layer)
            # What is held comes first, while the others are read.
            used = [e for e in used if e not in set(missing)] + missing
        else:
            self._unused.update((layer, e) for e in range(n_experts) if e not in used)
        applied = gates.astype(x.dtype)
        out = np.zeros(
            (len(x), x.shape[-1]) if summed else (*experts.shape, x.shape[-1]), np.float32
        )
        running: deque[_Running] = deque()
        for done, expert in enumerate(used, 1):
            own = self._weights(layer, expert)
            rows, slots = np.nonzero(experts == expert)
            weight = applied[rows, slots][:, None]
            read = x[rows] * weight if form.gates_input else x[rows]
            result = _expert_rows(form, read, own)
            del own
            running.append(_Running(rows, slots, None if form.gates_input else weight, result))
            if len(running) > RUNNING:
                running.popleft().add_to(out, summed)
            if self._watch is not None and done < len(used):
                self._watch.tell(layer + done / len(used), self.bytes_read)
        for one in running:
            one.add_to(out, summed)
        return out

    def _weights(self, layer: int, expert: int) -> Experts:
        """One expert's matrices and biases, from memory or as they come from disk."""
        layers, key = self._layers, (layer, expert)
        held = layers.cache.get(key)
        if held is None:
            specs = self._expert_specs(layer)
            read = {spec.leaf: self._read(layer, expert, spec) for spec in specs}
            held = layers.architecture.expert_products.of(jax.device_put(read))
            layers.cache.put(key, held, evict=self._few)
        return held


class _Running(NamedTuple):
    """One expert's rows, whose products may not be over.

    rows, slots: [C] where they go; weight: [C, 1] to multiply with, or None; result: [C or more, D]
    float32.
    """

    rows: np.ndarray
    slots: np.ndarray
    weight: np.ndarray | None
    result: jax.Array

    def add_to(self, out: np.ndarray, summed: bool) -> None:
        """Waits for the products and adds them to the sums [N, D], or puts them apart [N, K, D]."""
        result = np.asarray(self.result)[: len(self.rows)]
        if self.weight is not None:
            result = result * self.weight.astype(np.float32)
        if summed:
            out[self.rows] += result  # a row chooses an expert once
        else:
            out[self.rows, self.slots] = result


def _expert_rows(form: ExpertForm, x: np.ndarray, own: Experts) -> jax.Array:
    """One expert's output [C or more, D] float32 for its rows, which are filled up so that few
    shapes are compiled; it need not be there yet."""
    filled = np.zeros((_filled_up(len(x)), x.shape[-1]), x.dtype)
    filled[: len(x)] = x
    return _expert_pass(form, filled, own)


def _filled_up(n: int) -> int:
    """The next power of two; of many rows, where each costs, the next of four steps up to it."""
    power = 1 << (n - 1).bit_length()
    step = power // 8 if power > MANY else power
    return -(-n // step) * step


@partial(jax.jit, static_argnames=("form",), compiler_options=AS_WRITTEN)
def _expert_pass(form: ExpertForm, x: jax.Array, own: Experts) -> jax.Array:
    return expert_output(x, own, form).astype(jnp.float32)
