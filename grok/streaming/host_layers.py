"""Decoder layers whose weights are read from disk while they are computed.

A layer is cut in two compiled halves around its experts. The experts' matrices, 99 % of its bytes,
stay int8 and are multiplied on the host as their pieces arrive (`grok.streaming.experts`); the
rest goes through the compiled halves. All batches of a pass share each layer's reading.

With more than three rows nearly all experts are touched, so the reader runs ahead over whole
layers. With fewer, only the chosen experts are asked for, once the router has spoken.

Axes: B sequences, T tokens, N token rows of all batches, K experts a token, D d_model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from jax.sharding import Mesh

from grok.architectures.architecture import Architecture, all_layer_specs
from grok.checkpoints.tensor_file import QuantizedWeight8bit
from grok.checkpoints.tensor_spec import Checkpoint, TensorSpec, check_finite, located
from grok.engine.interfaces import Done, LayerFigures, Part
from grok.engine.progress import Watch
from grok.engine.sharding import put_on_devices
from grok.streaming.experts import Matrix, Rows, expert_pieces, mixture
from grok.streaming.half_layer import around_experts
from grok.streaming.host_memory import Sizes, most_tokens, sizes, smallest_budget
from grok.streaming.read_ahead import Buffers, Filled, Piece, ReadAhead
from grok.streaming.taken import Taken

# Up to this many rows only the chosen experts are read.
FEW_ROWS = 3
DIRECT_BYTES = 4 * 2**30


class StreamedLayers:
    """`grok.engine.resident.Layers` of a checkpoint on disk.

    Attributes:
        memory_budget: bytes that the process may take.
        last_pass: figures of each layer of the last pass.

    Raises:
        DeviceError: the budget is too small.
        CheckpointError: a file is missing, or is not what the config says; nothing but
            descriptions of tensors is read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        architecture: Architecture,
        dtype: str,
        mesh: Mesh,
        budget: int,
    ) -> None:
        self.architecture, self.dtype, self.mesh = architecture, dtype, mesh
        self.memory_budget = budget
        sizes(architecture, budget)
        self.tensors = located(checkpoint, all_layer_specs(architecture))
        self.direct = sum(p.identity.size for p in self.tensors.values()) > DIRECT_BYTES
        self.last_pass: list[LayerFigures] = []
        self._buffers = threading.Lock()
        self._kept: Buffers | None = None

    def _memory(self, spent: Sizes) -> Buffers:
        """Buffers of a pass: those of the one before where they fit the budget as well."""
        kept = self._kept
        if kept is None or kept.piece_bytes != spent.piece_bytes or kept.n != spent.n_buffers:
            self._kept = kept = None  # given back before others are taken
            self._kept = Buffers(spent.n_buffers, spent.piece_bytes)
        return self._kept  # type: ignore[return-value]

    def max_rows(self, kept_bytes: int = 0) -> int:
        """Rows that a pass without logits can have, of which each keeps so many bytes."""
        low, high = 0, most_tokens(self.architecture, self.memory_budget, logits=False)
        while low < high:  # the most whose kept bytes also have room
            middle = (low + high + 1) // 2
            least = smallest_budget(
                self.architecture, middle, logits=False, kept_bytes=middle * kept_bytes
            )
            low, high = (middle, high) if least <= self.memory_budget else (low, middle - 1)
        return low

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
        held = max(n_rows, n_padded or 0)
        spent = sizes(
            self.architecture, self.memory_budget, held, logits=logits, kept_bytes=kept_bytes
        )
        unused: set[tuple[int, int]] = set()

        def unwanted(piece: Piece) -> bool:
            return isinstance(piece.key, Rows) and piece.key[:2] in unused

        with (
            self._buffers,  # one pass at a time, or buffers and working memory would double
            ReadAhead(self._memory(spent), direct=self.direct, unwanted=unwanted) as reader,
        ):
            yield _Walk(self, reader, n_rows <= FEW_ROWS, first, unused, watch)


class _Walk:
    """One pass; see `grok.engine.resident.Walk`."""

    def __init__(
        self,
        layers: StreamedLayers,
        reader: ReadAhead,
        few: bool,
        first: int,
        unused: set[tuple[int, int]],
        watch: Watch | None,
    ) -> None:
        self._layers, self._reader, self._few = layers, reader, few
        self._unused, self._watch = unused, watch
        self._taken = Taken(reader, unused)
        layers.last_pass = []
        last = layers.architecture.config.n_layers
        if few:
            reader.ask(self._small(first))
        else:
            reader.ask(piece for i in range(first, last) for piece in self._whole(i))

    @property
    def bytes_read(self) -> int:
        return self._reader.bytes_read

    def layer(self, layer: int, parts: Iterable[Part]) -> Iterator[Done]:
        self._taken.begin()
        params, matrices = self._weights(layer)
        layers, experts = self._layers, partial(self._experts, layer, matrices)
        yield from around_experts(layers.architecture, layers.dtype, params, parts, experts)
        layers.last_pass.append(self._taken.figures(layer))

    # reading

    def _small(self, layer: int) -> Iterator[Piece]:
        """Everything of a layer but its experts' values: whole tensors, and the scales."""
        layers = self._layers
        for spec in layers.architecture.layer_specs(layer):
            for name in spec.names:
                tensor = layers.tensors[name]
                weight, scales = tensor.weight, tensor.scales
                if not spec.per_expert:
                    stops = [a.offset + a.n_bytes for a in (weight, scales) if a is not None]
                    starts = [a.offset for a in (weight, scales) if a is not None]
                    yield Piece(tensor, min(starts), max(stops) - min(starts), (layer, name))
                elif scales is not None:
                    yield Piece(tensor, scales.offset, scales.n_bytes, (layer, name))

    def _whole(self, layer: int) -> Iterator[Piece]:
        yield from self._small(layer)
        for expert in range(self._layers.architecture.config.n_experts):
            yield from self._of_expert(layer, expert)

    def _of_expert(self, layer: int, expert: int) -> Iterator[Piece]:
        for leaf in self._layers.architecture.expert_products[:3]:
            yield from self._of_matrix(layer, expert, leaf)

    def _of_matrix(self, layer: int, expert: int, leaf: str) -> Iterator[Piece]:
        spec = self._specs(layer)[leaf]
        most = self._reader.buffer_bytes
        return expert_pieces(layer, expert, spec, self._layers.tensors, most)

    def _specs(self, layer: int) -> dict[str, TensorSpec]:
        return {spec.leaf: spec for spec in self._layers.architecture.layer_specs(layer)}

    def _weights(self, layer: int) -> tuple[dict[str, Any], dict[str, Matrix]]:
        """A layer's small weights on the device, and its experts' scales."""
        layers = self._layers
        params: dict[str, Any] = {}
        matrices: dict[str, Matrix] = {}
        for spec in layers.architecture.layer_specs(layer):
            tensor = layers.tensors[spec.names[0]]
            if not spec.per_expert:
                weights = [self._weight(layer, spec, name) for name in spec.names]
                whole = weights[0] if len(weights) == 1 else np.stack(weights)
                params[spec.leaf] = put_on_devices(spec, whole, layers.mesh)
                continue
            scales = None
            if tensor.scales is not None:
                filled = self._taken.piece((layer, spec.names[0]))
                scales = _array(filled, tensor.scales, filled.piece.offset).astype(np.float32)
                check_finite(tensor.file, spec.names[0], scales)
                self._reader.give(filled)
            matrices[spec.leaf] = Matrix(spec, layers.tensors, scales)
        return params, matrices

    def _weight(self, layer: int, spec: TensorSpec, name: str) -> Any:
        """A tensor of a layer's small weights, as the program uses it."""
        tensor = self._layers.tensors[name]
        filled = self._taken.piece((layer, name))
        start = filled.piece.offset
        weight: Any = _array(filled, tensor.weight, start)
        floats = weight
        if tensor.scales is not None:
            floats = _array(filled, tensor.scales, start)
            weight = QuantizedWeight8bit(weight, floats)
        self._reader.give(filled)
        check_finite(tensor.file, name, floats)
        return np.swapaxes(weight, -1, -2) if spec.transposed else weight

    # the experts

    def _experts(
        self,
        layer: int,
        matrices: Mapping[str, Matrix],
        x: np.ndarray,
        experts: np.ndarray,
        gates: np.ndarray,
        summed: bool,
    ) -> np.ndarray:
        config = self._layers.architecture.config
        n_experts, n_layers = config.n_experts, config.n_layers
        used = [e for e in range(n_experts) if (experts == e).any()]
        if self._few:
            self._reader.ask(piece for e in used for piece in self._of_expert(layer, e))
            if layer + 1 < n_layers:
                self._reader.ask(self._small(layer + 1))
        else:
            self._unused.update((layer, e) for e in range(n_experts) if e not in used)
        finished = 0

        def pieces(expert: int, leaf: str) -> Iterator[Filled]:
            for piece in self._of_matrix(layer, expert, leaf):
                filled = self._taken.piece(piece.key)
                try:
                    yield filled
                finally:
                    self._reader.give(filled)

        def tell(expert: int) -> None:
            nonlocal finished
            finished += 1
            if self._watch is not None and finished < len(used):
                self._watch.tell(layer + finished / len(used), self.bytes_read)

        products = self._layers.architecture.expert_products
        return mixture(
            x, experts, gates, products, matrices, pieces, summed=summed, after_expert=tell
        )


def _array(filled: Filled, where: Any, start: int) -> np.ndarray:
    """A copy of one array of a piece that begins at byte `start`."""
    own = filled.bytes[where.offset - start : where.offset - start + where.n_bytes]
    flat: np.ndarray = own.copy().view(where.dtype)
    return flat.reshape(where.shape, order="F" if where.fortran else "C")
