"""Decoder layers of which some stay on the devices and the others pass through them.

For devices that hold some layers but not all, GPUs above all. A layer that does not stay is read
into host buffers, moved on to the devices through pinned memory where there is such, and dropped
after its use. That happens in threads while earlier layers are computed, with at most two layers
of that kind on the devices: the one in use, and the next. Every layer runs the program that a
resident model runs, so the numbers are the same to the last bit.

Wherever a walk stands, the reader is ahead of it by one layer on the devices and two tensors on
the host. Layers that stay are spread evenly between those that pass: reading goes on under them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding

from grok.architectures.architecture import Architecture, all_layer_specs
from grok.checkpoints.block_scales import Turned
from grok.checkpoints.tensor_file import QuantizedWeight8bit
from grok.checkpoints.tensor_offsets import ArrayLocation, TensorLocation
from grok.checkpoints.tensor_spec import (
    Checkpoint,
    TensorSpec,
    check_finite,
    located,
    read_parameter,
)
from grok.engine.interfaces import Done, LayerFigures, Part
from grok.engine.progress import Watch
from grok.engine.resident import Resident, through_layer
from grok.engine.sharding import dispatch_over, partition, put_on_devices
from grok.errors import DeviceError
from grok.streaming.device_memory import (
    ON_DEVICES,
    fit,
    layer_bytes,
    other_bytes,
    passing,
)
from grok.streaming.host_layers import DIRECT_BYTES
from grok.streaming.read_ahead import Buffers, Filled, Piece, ReadAhead

__all__ = [
    "ON_DEVICES",
    "DeviceLayers",
    "embed_unembed_on_devices",
    "fit",
    "has_pinned",
    "layer_bytes",
    "other_bytes",
    "passing",
]

HOST_BUFFERS = 2  # tensors in host memory: one being read, one being moved
PINNED = "pinned_host"


class DeviceLayers:
    """`grok.engine.resident.Layers` of a checkpoint on disk, some of them resident.

    One process; the mesh may have several devices.

    Args:
        stay: layers that stay, see `fit`.
        device_bytes: what the devices have; passes of more rows than fit beside the layers are
            refused before they start. None: not looked at.
        pinned: move through pinned host memory; by default where the devices have it.
        progress: told of the tensors of the layers that stay, read so far and in all.

    Attributes:
        kept: weights of the layers that stay, by number.
        on_devices: most layers on their way that were on the devices at once in the last walk.
        last_pass: figures of each layer of the last walk; 0 bytes for those that stay.

    Raises:
        CheckpointError: a file is missing or is not what the config says.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        architecture: Architecture,
        dtype: str,
        mesh: Mesh,
        stay: int,
        *,
        device_bytes: int | None = None,
        pinned: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        config = architecture.config
        if not 0 <= stay <= config.n_layers:
            raise DeviceError(f"{stay} layers are to stay; expected 0 to {config.n_layers}.")
        self.architecture, self.dtype, self.mesh = architecture, dtype, mesh
        self.tensors = located(checkpoint, all_layer_specs(architecture))
        self.passing = passing(config.n_layers, stay)
        self.pinned = has_pinned(mesh) if pinned is None else pinned
        # A CPU device keeps using an array that it was given; buffers are used again.
        self.copies = mesh.devices.flat[0].platform == "cpu"
        self.direct = sum(p.identity.size for p in self.tensors.values()) > DIRECT_BYTES
        self.kept: dict[int, dict[str, Any]] = {}
        self.memory_budget: int | None = None
        self.on_devices = 0
        self.last_pass: list[LayerFigures] = []
        self._device_bytes = device_bytes
        self._one_walk = threading.Lock()
        self._buffers: Buffers | None = None
        staying = [i for i in range(config.n_layers) if i not in set(self.passing)]
        for i in staying:
            specs = architecture.layer_specs(i)
            self.kept[i] = {}
            for spec in specs:
                tensor = read_parameter(checkpoint, spec)
                self.kept[i][spec.leaf] = put_on_devices(spec, tensor, mesh)
                if progress is not None:
                    done = (len(self.kept) - 1) * len(specs) + len(self.kept[i])
                    progress(done, len(staying) * len(specs))

    def max_rows(self, kept_bytes: int = 0) -> int | None:
        """As `Layers.max_rows`: not known beforehand; `walk` refuses what has no room."""
        return None

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
        """A pass from layer `first` on; one at a time, so that memory is not taken twice.

        Raises:
            DeviceError: so many rows have no room beside the layers.
        """
        self._check_room(max(n_rows, n_padded or 0))
        with self._one_walk:
            walk = _Walk(self, first, watch)
            try:
                yield walk
            finally:
                walk.close()

    def _check_room(self, n_rows: int) -> None:
        moving = min(ON_DEVICES, len(self.passing))
        held = (len(self.kept) + moving) * layer_bytes(self.architecture)
        needed = held + other_bytes(self.architecture, n_rows)
        if self._device_bytes is not None and needed > self._device_bytes:
            raise DeviceError(
                f"A pass of {n_rows:,} token rows takes {needed / 1e9:,.1f} GB of the devices, "
                f"which have {self._device_bytes / 1e9:,.1f} GB, {held / 1e9:,.1f} GB of them for "
                "layers. Send fewer or shorter prompts together."
            )

    def buffers(self) -> Buffers:
        """Host memory for the tensors that pass, the same in every walk."""
        if self._buffers is None:
            largest = max(piece.n_bytes for i in self.passing for piece in self.spans(i))
            self._buffers = Buffers(HOST_BUFFERS, largest)
        return self._buffers

    def spans(self, layer: int) -> Iterator[Piece]:
        """The tensors of a layer, each a piece."""
        for spec in self.architecture.layer_specs(layer):
            for name in spec.names:
                tensor = self.tensors[name]
                start, stop = _span(tensor)
                yield Piece(tensor, start, stop - start, name)

    def put(self, spec: TensorSpec, array: np.ndarray) -> jax.Array:
        """An array of a buffer on the devices; the buffer is free when this returns."""
        if self.copies or array.dtype != np.int8:  # small ones may lie anywhere in a buffer
            array = np.array(array)
        where: Sharding
        if self.mesh.size == 1:
            where = SingleDeviceSharding(self.mesh.devices.item())
        else:
            where = NamedSharding(self.mesh, partition(spec, array.shape, self.mesh))
        source: Any = array
        if self.pinned:
            source = jax.device_put(array, where.with_memory_kind(PINNED))
        return jax.block_until_ready(jax.device_put(source, where))


def embed_unembed_on_devices(
    checkpoint: Checkpoint, architecture: Architecture, dtype: str, mesh: Mesh
) -> Resident:
    """Embedding, final norm and head on the devices, as `grok.engine.interfaces.EmbedUnembed`."""
    outer = {
        spec.leaf: put_on_devices(spec, read_parameter(checkpoint, spec), mesh)
        for spec in architecture.outer_specs()
    }
    return Resident(architecture, [], outer, dtype, mesh)


def has_pinned(mesh: Mesh) -> bool:
    """Whether all devices of the mesh take memory from pinned pages of the host."""
    return all(
        any(memory.kind == PINNED for memory in device.addressable_memories())
        for device in mesh.devices.flat
    )


class _Walk:
    """One pass; see `grok.engine.resident.Walk`."""

    def __init__(self, layers: DeviceLayers, first: int, watch: Watch | None) -> None:
        self._layers, self._watch = layers, watch
        self._dispatch = dispatch_over(layers.mesh)
        self._due = [i for i in layers.passing if i >= first]
        self.waited = 0.0
        layers.on_devices = 0
        layers.last_pass = []
        self._moving = _Moving(layers, self._due) if self._due else None

    @property
    def bytes_read(self) -> int:
        return 0 if self._moving is None else self._moving.bytes_read

    def close(self) -> None:
        """Ends the threads; what they still hold is dropped."""
        if self._moving is not None:
            self._moving.close()

    def layer(self, layer: int, parts: Iterable[Part]) -> Iterator[Done]:
        layers, began = self._layers, time.perf_counter()
        params = layers.kept.get(layer)
        moved, waited = params is None, 0.0
        n_bytes, read = 0, 0.0
        if params is None:
            assert self._moving is not None
            params, n_bytes, read = self._moving.take(layer)
            waited = time.perf_counter() - began
            self.waited += waited
            if self._watch is not None:
                self._watch.tell(layer + 0.5, self.bytes_read)
        last: Done | None = None
        for part in parts:
            architecture = layers.architecture.at(layer)
            last = through_layer(architecture, params, part, self._dispatch, layers.mesh)
            yield last
        if moved and self._moving is not None:
            del params
            if last is not None:  # its memory is free only once it was used
                jax.block_until_ready(last.h)
            self._moving.used()
        seconds = time.perf_counter() - began
        layers.last_pass.append(
            LayerFigures(layer, n_bytes, read, seconds - waited, waited, seconds)
        )


class _Arrived(NamedTuple):
    """A layer on the devices. bytes, seconds: of its reading."""

    params: dict[str, Any]
    bytes: int
    seconds: float


class _Moving:
    """The threads that bring layers: one reads tensors into buffers, one moves them on."""

    def __init__(self, layers: DeviceLayers, due: list[int]) -> None:
        self._layers, self._due = layers, due
        self._reader = ReadAhead(layers.buffers(), direct=layers.direct)
        self._changed = threading.Condition()
        self._here: dict[int, _Arrived] = {}
        self._there = 0  # layers on the devices or on their way
        self._error: BaseException | None = None
        self._closing = False
        self._reader.__enter__()
        self._reader.ask(piece for i in due for piece in layers.spans(i))
        self._thread = threading.Thread(target=self._work, name="to-devices", daemon=True)
        self._thread.start()

    @property
    def bytes_read(self) -> int:
        return self._reader.bytes_read

    def take(self, layer: int) -> _Arrived:
        """A layer's weights, waiting for them when need be.

        Raises:
            CheckpointError: they cannot be read.
        """
        with self._changed:
            while layer not in self._here:
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            return self._here.pop(layer)

    def used(self) -> None:
        """Says that the layer that was taken is used no more."""
        with self._changed:
            self._there -= 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()  # before the reader, for which it may wait
        self._reader.__exit__()
        self._here.clear()

    def _work(self) -> None:
        try:
            for layer in self._due:
                with self._changed:
                    while self._there >= ON_DEVICES and not self._closing:
                        self._changed.wait()
                    if self._closing:
                        return
                    self._there += 1
                    self._layers.on_devices = max(self._layers.on_devices, self._there)
                arrived = self._moved(layer)
                with self._changed:
                    if arrived is None:
                        return
                    self._here[layer] = arrived
                    self._changed.notify_all()
        except BaseException as error:  # raised again by who takes the layer
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _moved(self, layer: int) -> _Arrived | None:
        """A layer on the devices; None when the walk ends meanwhile."""
        params: dict[str, Any] = {}
        n_bytes, seconds = 0, 0.0
        for spec in self._layers.architecture.layer_specs(layer):
            parts = []
            for name in spec.names:
                if self._closing:
                    return None
                filled = self._reader.take()
                n_bytes += filled.piece.n_bytes
                seconds += filled.seconds
                try:
                    parts.append(self._tensor(spec, name, filled))
                finally:
                    self._reader.give(filled)
            params[spec.leaf] = jax.tree.map(
                lambda *own: own[0] if len(own) == 1 else jnp.stack(own), *parts
            )
        return _Arrived(params, n_bytes, seconds)

    def _tensor(self, spec: TensorSpec, name: str, filled: Filled) -> Any:
        tensor = filled.piece.tensor
        weight = _view(filled, tensor.weight)
        scales = None if tensor.scales is None else _view(filled, tensor.scales)
        check_finite(tensor.file, name, weight if scales is None else scales)
        put = self._layers.put
        if scales is None and spec.as_stored and spec.transposed:
            return Turned(put(spec, weight))
        if spec.transposed:
            weight = np.swapaxes(weight, -1, -2)
        if scales is None:
            return put(spec, weight)
        return QuantizedWeight8bit(put(spec, weight), put(spec, scales))  # type: ignore[arg-type]


def _span(tensor: TensorLocation) -> tuple[int, int]:
    """First byte of the values in the file, and the byte after the last."""
    arrays = [array for array in (tensor.weight, tensor.scales) if array is not None]
    return min(a.offset for a in arrays), max(a.offset + a.n_bytes for a in arrays)


def _view(filled: Filled, where: ArrayLocation) -> np.ndarray:
    """One array of a buffer, in place."""
    start = where.offset - filled.piece.offset
    flat = filled.bytes[start : start + where.n_bytes].view(where.dtype)
    return flat.reshape(where.shape, order="F" if where.fortran else "C")
