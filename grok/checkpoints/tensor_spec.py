"""The parameters of a model as its program uses them, and the tensors of a file that hold them.

A model says of each parameter what it is called in its checkpoint, which shape it has, and what
may be done with it: split over devices, read expert by expert, held as int8. Reading, streaming,
sharding and planning follow that description and know no model's names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from grok.checkpoints.block_scales import BlockScaled, MicroScaled, Turned
from grok.checkpoints.room import room
from grok.checkpoints.tensor_file import QuantizedWeight8bit, Tensor
from grok.checkpoints.tensor_offsets import ArrayLocation, TensorLocation
from grok.config import ModelConfig
from grok.errors import CheckpointError

Stored = Tensor | BlockScaled | MicroScaled | Turned
"""A tensor as a file holds it: plain, or quantized in one of the ways that are read."""


@dataclass(frozen=True)
class TensorSpec:
    """One parameter of a layer, or of what stands outside the layers.

    Attributes:
        leaf: its key among the parameters that a compiled function takes.
        shape: as the program uses it; with experts, they are the first axis.
        names: of the tensors that hold it: one, or one for each expert.
        transposed: each tensor holds the last two axes in the other order.
        as_stored: if so, it stays in that order, as `Turned`.
        per_expert: the first axis counts experts, of whom a token uses a few.
        quantizable: may be stored as int8 with scales.
        scale_groups: groups of rows that share a scale in the release, where it is quantized.
        item_bytes: of one value in the release; several may share a byte.
        split: (axis, units) along which it may be split over devices, in whole units.
    """

    leaf: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    transposed: bool = False
    as_stored: bool = False
    per_expert: bool = False
    quantizable: bool = False
    scale_groups: int = 1
    item_bytes: float = 4
    split: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the values in the release; scales are not counted."""
        return round(self.size * self.item_bytes)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of each of the tensors that hold it."""
        shape = self.shape[1:] if len(self.names) > 1 else self.shape
        return (*shape[:-2], shape[-1], shape[-2]) if self.transposed else shape


def with_leaf(specs: Iterable[TensorSpec], leaf: str) -> TensorSpec:
    """The tensor of that name among a layer's."""
    return next(spec for spec in specs if spec.leaf == leaf)


class Checkpoint(Protocol):
    """A folder with a model's files; its tensors are read when asked for.

    Attributes:
        folder: holds the config and, where there is one, the tokenizer.
        tensor_folder: holds the files with tensors.
    """

    @property
    def folder(self) -> Path: ...

    @property
    def tensor_folder(self) -> Path: ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def tokenizer_file(self) -> Path | None:
        """The model's own tokenizer, where there is one."""
        ...

    @property
    def paths(self) -> list[str]:
        """The names of all tensors of the model."""
        ...

    def missing(self) -> list[str]:
        """Names of tensors whose file is not there."""
        ...

    def check_complete(self) -> None:
        """Refuses a checkpoint of which files are missing.

        Raises:
            GrokError: how many, the first, and what to do.
        """
        ...

    def file(self, name: str) -> Path:
        """The file that holds a tensor.

        Raises:
            CheckpointError: the model has no such tensor.
        """
        ...

    def read(self, name: str) -> Stored:
        """A tensor, quantized as it is stored.

        Raises:
            CheckpointError: it cannot be read or is not what the config says.
        """
        ...

    def locate(self, name: str) -> TensorLocation:
        """Where the bytes of a tensor lie; none of its values is read.

        Raises:
            CheckpointError: it cannot be found or is not what the config says.
        """
        ...


def read_parameter(checkpoint: Checkpoint, spec: TensorSpec) -> Stored:
    """A parameter as the program uses it, put together from the tensors that hold it.

    Raises:
        CheckpointError: one cannot be read or has another shape.
    """
    first = _read(checkpoint, spec, spec.names[0])
    if len(spec.names) == 1:
        return oriented(spec, first)
    if isinstance(first, BlockScaled):
        both = _stacked(checkpoint, spec, (first.weight, first.scales))
        return oriented(spec, BlockScaled(both[0], both[1], first.block))
    if not isinstance(first, np.ndarray):
        raise _mixed(checkpoint, spec.names[0])
    return oriented(spec, _stacked(checkpoint, spec, (first,))[0])


def _stacked(
    checkpoint: Checkpoint, spec: TensorSpec, first: tuple[np.ndarray, ...]
) -> list[np.ndarray]:
    """The arrays of all tensors of a parameter, of which the first was read, side by side; no more
    than one is there twice."""
    out = [room((len(spec.names), *array.shape), array.dtype) for array in first]
    for i, name in enumerate(spec.names):
        stored = _read(checkpoint, spec, name) if i else first
        if isinstance(stored, BlockScaled):
            stored = (stored.weight, stored.scales)
        elif isinstance(stored, np.ndarray):
            stored = (stored,)
        if not isinstance(stored, tuple) or len(stored) != len(out):
            raise _mixed(checkpoint, name)
        for k, array in enumerate(stored):
            wider = np.promote_types(out[k].dtype, array.dtype)
            out[k] = out[k].astype(wider, copy=False)
            out[k][i] = array
    return out


def _mixed(checkpoint: Checkpoint, name: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.file(name)} ({name}): quantized values in a tensor of its own for each "
        "expert; expected floats, or 8 bits with scales in all of them. Get the files again."
    )


def oriented(spec: TensorSpec, stored: Stored) -> Stored:
    """A parameter as the program uses it; 4-bit values know their own order."""
    if not spec.transposed or isinstance(stored, MicroScaled):
        return stored
    if spec.as_stored:
        return Turned(stored)
    return np.ascontiguousarray(np.swapaxes(np.asarray(stored), -1, -2))


def _read(checkpoint: Checkpoint, spec: TensorSpec, name: str) -> Stored:
    tensor = checkpoint.read(name)
    if isinstance(tensor, MicroScaled):  # stored turned, and read so
        check_shape(checkpoint, replace(spec, transposed=False), name, tensor.shape)
        return tensor
    check_shape(checkpoint, spec, name, tensor.shape)
    if not isinstance(tensor, np.ndarray) and not spec.quantizable:
        raise CheckpointError(
            f"{checkpoint.file(name)} ({name}): quantized values; expected a plain float array. "
            "Get the model's own files again, or a copy that has it in floats."
        )
    if spec.transposed and isinstance(tensor, QuantizedWeight8bit):
        raise CheckpointError(
            f"{checkpoint.file(name)} ({name}): int8 values stored as [columns, rows]; expected "
            "floats."
        )
    return tensor


def check_shape(
    checkpoint: Checkpoint, spec: TensorSpec, name: str, shape: tuple[int, ...]
) -> None:
    """Refuses a tensor of another shape than the model's config says.

    Raises:
        CheckpointError: the file, the shape found and the one expected.
    """
    if shape != spec.stored_shape:
        raise CheckpointError(
            f"{checkpoint.file(name)} ({name}): shape {list(shape)}; expected "
            f"{list(spec.stored_shape)}. Check that config.json belongs to this checkpoint."
        )


class PartedCheckpoint(Checkpoint, Protocol):
    """A checkpoint whose tensors may lie in several parts: values and their scales."""

    def parts(self, name: str) -> tuple[TensorLocation, ...]:
        """Where a tensor's values lie, and after them its scales."""
        ...

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; of 4-bit values, of the matrix that they stand for."""
        ...


def check_stored_shape(checkpoint: PartedCheckpoint, spec: TensorSpec, name: str) -> None:
    """Refuses a tensor of another shape than the model's config says, without reading it.

    Raises:
        CheckpointError: the file, the shape found and the one expected.
    """
    turned = len(checkpoint.parts(name)) == 2 and checkpoint.parts(name)[0].weight.dtype == np.uint8
    own = replace(spec, transposed=False) if turned else spec
    check_shape(checkpoint, own, name, checkpoint.shape_of(name))


def located(checkpoint: Checkpoint, specs: Iterable[TensorSpec]) -> dict[str, TensorLocation]:
    """Where all tensors of some parameters lie, by name, checked against the model.

    Raises:
        CheckpointError: missing, damaged, of another shape or dtype, or experts' rows that do
            not lie together.
    """
    found = {}
    for spec in specs:
        for name in spec.names:
            tensor = checkpoint.locate(name)
            check_shape(checkpoint, spec, name, tensor.weight.shape)
            where = f"{tensor.file} ({name})"
            if tensor.scales is None and tensor.weight.dtype == np.int8:
                raise CheckpointError(f"{where}: int8 values without scales; expected both.")
            if tensor.scales is not None and not spec.quantizable:
                raise CheckpointError(f"{where}: int8 weight; expected a plain float array.")
            if spec.per_expert and tensor.weight.fortran:
                raise CheckpointError(
                    f"{where}: stored column by column, so an expert's rows do not lie together "
                    "and cannot be read in pieces. Load the model resident, or write the file anew."
                )
            found[name] = tensor
    return found


def expert_array(
    spec: TensorSpec, tensors: Mapping[str, TensorLocation], expert: int
) -> ArrayLocation:
    """Where one expert's matrix lies, as it is stored.

    Args:
        spec: of a parameter with experts.
        tensors: where its tensors are.
        expert: which.
    """
    if len(spec.names) > 1:
        return tensors[spec.names[expert]].weight
    whole = tensors[spec.names[0]].weight
    shape = whole.shape[1:]
    step = math.prod(shape) * whole.dtype.itemsize
    return ArrayLocation(shape, whole.dtype, False, whole.offset + expert * step)


def check_finite(file: Path, name: str, values: np.ndarray) -> None:
    """Refuses values that are not numbers.

    Raises:
        CheckpointError: how many of which tensor.
    """
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise CheckpointError(
            f"{file} ({name}): {bad} values are not finite. The file is damaged; get it again."
        )
