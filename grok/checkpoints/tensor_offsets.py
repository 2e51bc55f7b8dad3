"""Where the values of a tensor lie in its file, without reading them.

The same restricted unpickler that reads whole tensors is taught to step over bytes and to note
where they are. Its description done, a tensor can be read in pieces of any size. This module
needs numpy alone.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from grok.checkpoints.tensor_file import (
    ALLOWED,
    BFLOAT16,
    Dispatch,
    PickledArray,
    PickledDtype,
    PickledNdarray,
    PickledQuantized,
    TensorUnpickler,
    check_scale_shapes,
    damage_in_words,
    ordinary_file,
)
from grok.errors import CheckpointError

# Everything in such a file but the values: the released ones have a few hundred bytes of it.
MAX_OVERHEAD = 64 * 1024


@dataclass(frozen=True)
class FileIdentity:
    """What tells that a file is still the one it was, without reading it."""

    path: str
    size: int
    modified_ns: int
    inode: int


def identity(file: Path, found: os.stat_result) -> FileIdentity:
    """The identity of a file by what `os.stat` said of it."""
    return FileIdentity(str(file.resolve()), found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True)
class ArrayLocation:
    """One array in a file.

    Attributes:
        shape: of the array.
        dtype: int8, float32 or bfloat16.
        fortran: stored column by column.
        offset: byte at which its values begin.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class TensorLocation:
    """One tensor file.

    Attributes:
        file: the file.
        weight: the array, or the int8 values.
        scales: of int8 values; None for a plain array.
        identity: of the file when it was looked at.
    """

    file: Path
    weight: ArrayLocation
    scales: ArrayLocation | None
    identity: FileIdentity


def locate_tensor(file: Path) -> TensorLocation:
    """What is in a tensor file and where; nothing it names is executed, no value is read.

    Raises:
        CheckpointError: missing, truncated, or holding anything foreign to the format.
        FileNotFoundError: there is no such file.
    """
    with damage_in_words(file):
        found = ordinary_file(file)
        with file.open("rb") as stream:
            weight, scales = _locate(stream, found.st_size)
    return TensorLocation(file, weight, scales, identity(file, found))


def _locate(stream: IO[bytes], size: int) -> tuple[ArrayLocation, ArrayLocation | None]:
    skimmed = _Skimmed(stream, size)
    found = _Locator(skimmed).load()
    if skimmed.left:
        raise CheckpointError(f"{skimmed.left} bytes are left after the tensor; expected its end")
    if isinstance(found, PickledQuantized) and found.values is not None:
        weight, scales = _place(found.values["weight"]), _place(found.values["scales"])
        _check(weight, scales)
        return weight, scales
    return _place(found), None


def _place(found: Any) -> ArrayLocation:
    if not isinstance(found, _Located) or found.payload is None:
        raise CheckpointError("the file holds something else where an array is due")
    return ArrayLocation(found.shape, found.dtype, found.fortran, found.payload.offset)


def _check(weight: ArrayLocation, scales: ArrayLocation) -> None:
    if weight.dtype != np.int8 or scales.dtype not in (np.float32, BFLOAT16):
        raise CheckpointError(
            f"a quantized weight has dtypes {weight.dtype} and {scales.dtype}; "
            "expected int8 and float32 or bfloat16"
        )
    check_scale_shapes(weight.shape, scales.shape)


@dataclass(frozen=True)
class _Payload:
    """The bytes of an array, by their place in the file."""

    offset: int
    size: int


class _Located(PickledArray):
    """Records what an array's pickle says, and where its bytes are."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    payload: _Payload | None = None

    def __setstate__(self, state: Any) -> None:
        try:
            _version, shape, dtype, fortran, payload = state
        except (TypeError, ValueError):
            raise CheckpointError("an array's pickled state is malformed") from None
        if (
            not isinstance(dtype, PickledDtype)
            or not isinstance(payload, _Payload)
            or not isinstance(shape, tuple)
            or len(shape) > 8
            or not all(type(n) is int and n >= 0 for n in shape)
        ):
            raise CheckpointError("an array's pickled state is malformed")
        needed = dtype.dtype.itemsize
        for n in shape:
            needed *= n
        if needed != payload.size:
            raise CheckpointError(
                f"an array of shape {list(shape)} and dtype {dtype.dtype.name} needs {needed} "
                f"bytes; the file holds {payload.size}"
            )
        self.shape, self.dtype, self.fortran = shape, dtype.dtype, bool(fortran)
        self.payload = payload


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Located:
    if kind is not PickledNdarray:
        raise CheckpointError("an array is not a plain numpy.ndarray")
    return _Located()


class _Skimmed:
    """A file that hands out little, counts what it handed out, and steps over the rest."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size
        self.at = 0

    def read(self, n: int) -> bytes:
        self._check(n)
        if n > MAX_OVERHEAD:
            raise CheckpointError(f"{n} bytes are due where an array's description is expected")
        data = self._stream.read(n)
        self.at += len(data)
        return data

    def readline(self) -> bytes:
        line = self._stream.readline(1024)
        self.at += len(line)
        return line

    def skip(self, n: int) -> None:
        self._check(n)
        self._stream.seek(n, os.SEEK_CUR)
        self.at += n

    @property
    def left(self) -> int:
        return self._size - self.at

    def _check(self, n: int) -> None:
        if n > self.left:
            raise CheckpointError(f"truncated: {n} more bytes are due and {self.left} are there")


class _Locator(TensorUnpickler):
    """The restricted unpickler, taught to note where an array's bytes are and step over them."""

    dispatch = Dispatch(TensorUnpickler.dispatch)

    def __init__(self, file: _Skimmed) -> None:
        super().__init__(file)
        self._skimmed = file

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        replaced = ALLOWED["numpy.core.multiarray", "_reconstruct"]
        return _reconstruct if found is replaced else found

    def load_short_binbytes(self) -> None:
        self._note(self.read(1)[0])

    def load_binbytes(self) -> None:
        self._note(int.from_bytes(self.read(4), "little"))

    def load_binbytes8(self) -> None:
        self._note(int.from_bytes(self.read(8), "little"))

    def _note(self, size: int) -> None:
        frame = self._unframer.current_frame
        left = len(frame.getbuffer()) - frame.tell() if frame else 0
        self.append(_Payload(self._skimmed.at - left, size))
        if left:
            if size > left:
                raise CheckpointError(f"truncated: {size} more bytes are due in a frame of {left}")
            frame.seek(size, os.SEEK_CUR)
        else:
            self._skimmed.skip(size)

    dispatch[pickle.SHORT_BINBYTES[0]] = load_short_binbytes
    dispatch[pickle.BINBYTES[0]] = load_binbytes
    dispatch[pickle.BINBYTES8[0]] = load_binbytes8
