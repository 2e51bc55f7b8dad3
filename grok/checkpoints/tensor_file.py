"""One tensor file of a checkpoint: a protocol-4 pickle of a numpy array or of an int8 weight.

Reading runs nothing that the file names. The few globals that such files hold
are stood in for by inert recorders, arrays are views of the bytes that the
unpickler read (one copy in memory), and any other global is refused by name.
Writing gives the bytes that the released files hold under their numpy: the
official loader reads them.
"""

# long file: the format as it is read and as it is written, which have to agree.
from __future__ import annotations

import os
import pickle
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from grok.errors import CheckpointError, plain
from grok.files import write_whole

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Pickle text of a dtype -> numpy dtype. Nothing else occurs in Grok-1's format.
_DTYPES = {"i1": np.dtype(np.int8), "f4": np.dtype("<f4"), "bfloat16": BFLOAT16}
_PICKLE_OVERHEAD = 64 * 1024
_MAX_RANK = 8


@dataclass(frozen=True, eq=False)
class QuantizedWeight8bit:
    """An int8 weight with one scale per output column and group of rows.

    Attributes:
        weight: int8 `[..., K, N]`.
        scales: float32 or bfloat16 `[..., G, N]`; G divides K, group g holds rows
            `g * K / G` to `(g + 1) * K / G`.
    """

    weight: np.ndarray
    scales: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    @property
    def nbytes(self) -> int:
        return int(self.weight.nbytes + self.scales.nbytes)


Tensor = np.ndarray | QuantizedWeight8bit


def dequantize(weight: QuantizedWeight8bit, dtype: Any = np.float32) -> np.ndarray:
    """The float values `int8 * scale` of each group, computed in float32, as `dtype`."""
    *lead, rows, columns = weight.weight.shape
    groups = weight.scales.shape[-2]
    grouped = weight.weight.reshape(*lead, groups, rows // groups, columns).astype(np.float32)
    values = grouped * weight.scales.astype(np.float32)[..., :, None, :]
    return values.reshape(weight.weight.shape).astype(dtype)


# --- reading -----------------------------------------------------------------


class PickledArray:
    """Records what an array's pickle says; becomes a view of its bytes."""

    array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        try:
            _version, shape, dtype, fortran, data = state
        except (TypeError, ValueError):
            raise CheckpointError("an array's pickled state is malformed") from None
        if not isinstance(dtype, PickledDtype) or not isinstance(data, bytes):
            raise CheckpointError("an array's pickled state is malformed")
        if (
            not isinstance(shape, tuple)
            or len(shape) > _MAX_RANK
            or not all(type(n) is int and n >= 0 for n in shape)
        ):
            raise CheckpointError(f"an array's shape is {repr(shape)[:80]}")
        count = 1
        for n in shape:
            count *= n
        if count * dtype.dtype.itemsize != len(data):
            raise CheckpointError(
                f"an array of shape {list(shape)} and dtype {dtype.dtype.name} "
                f"needs {count * dtype.dtype.itemsize} bytes; the file holds {len(data)}"
            )
        flat = np.frombuffer(data, dtype=dtype.dtype)
        self.array = flat.reshape(shape, order="F" if fortran else "C")


class PickledDtype:
    """Records a dtype by its pickle text; refuses other than little-endian ones."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", "|", "="):
            raise CheckpointError(f"a dtype's byte order is {order!r}; expected little-endian")


class _Bfloat16:
    """Stands in for the `ml_dtypes.bfloat16` class."""


class PickledNdarray:
    """Stands in for the `numpy.ndarray` class."""


class PickledQuantized:
    """Records the attributes of a `QuantizedWeight8bit`."""

    values: dict[str, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or set(state) != {"weight", "scales"}:
            raise CheckpointError("a QuantizedWeight8bit holds other attributes than its two")
        self.values = state


def _reconstruct(kind: Any, shape: Any, code: Any) -> PickledArray:
    if kind is not PickledNdarray:
        raise CheckpointError("an array is not a plain numpy.ndarray")
    return PickledArray()


def _dtype(code: Any, *_options: Any) -> PickledDtype:
    name = "bfloat16" if code is _Bfloat16 else code
    if not isinstance(name, str) or name not in _DTYPES:
        raise CheckpointError(f"dtype {name!r}; expected int8, float32 or bfloat16")
    return PickledDtype(_DTYPES[name])


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): PickledNdarray,
    ("numpy", "dtype"): _dtype,
    ("ml_dtypes", "bfloat16"): _Bfloat16,
    ("__main__", "QuantizedWeight8bit"): PickledQuantized,
}


# What a plain array's pickle is made of in protocols 2 to 4. Others build lists,
# sets and references that no tensor holds, and some exhaust memory in few bytes.
_OPCODES = frozenset(
    code[0]
    for code in (
        pickle.PROTO,
        pickle.FRAME,
        pickle.STOP,
        pickle.MARK,
        pickle.GLOBAL,
        pickle.STACK_GLOBAL,
        pickle.NONE,
        pickle.NEWTRUE,
        pickle.NEWFALSE,
        pickle.BININT,
        pickle.BININT1,
        pickle.BININT2,
        pickle.LONG1,
        pickle.BINUNICODE,
        pickle.SHORT_BINUNICODE,
        pickle.BINBYTES,
        pickle.BINBYTES8,
        pickle.SHORT_BINBYTES,
        pickle.EMPTY_TUPLE,
        pickle.TUPLE,
        pickle.TUPLE1,
        pickle.TUPLE2,
        pickle.TUPLE3,
        pickle.EMPTY_DICT,
        pickle.SETITEM,
        pickle.SETITEMS,
        pickle.MEMOIZE,
        pickle.BINPUT,
        pickle.LONG_BINPUT,
        pickle.BINGET,
        pickle.LONG_BINGET,
        pickle.REDUCE,
        pickle.NEWOBJ,
        pickle.BUILD,
    )
)
_PureUnpickler: Any = pickle._Unpickler


class Dispatch(dict[int, Callable[[Any], None]]):
    def __missing__(self, opcode: int) -> Callable[[Any], None]:
        raise CheckpointError(
            f"refused: pickle instruction {bytes([opcode])!r}, which no Grok-1 tensor needs. "
            "Nothing was executed"
        )


class TensorUnpickler(_PureUnpickler):  # type: ignore[misc]
    """The pure-Python unpickler, cut down to what tensors need.

    The built-in one can be crashed by a few bytes: it allocates for any memo
    index and hashes tuples of any depth.
    """

    dispatch = Dispatch(
        (code, step) for code, step in _PureUnpickler.dispatch.items() if code in _OPCODES
    )

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise CheckpointError(
                f"refused: the file asks for {plain(module, 80)}.{plain(name, 80)}, which no "
                "Grok-1 tensor needs. Nothing was executed. Don't use this file; get it again from "
                "its publisher"
            ) from None

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], PickledArray | PickledDtype | PickledQuantized):
            raise CheckpointError("refused: the file sets attributes of something that has none")
        super().load_build()

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        keys = items[::2]
        if type(self.stack[-1]) is not dict or any(type(key) is not str for key in keys):
            raise CheckpointError("refused: the file fills something else than named attributes")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


class _Measured:
    """A file that never hands out more than it holds, so lying lengths fail early."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self.left = size

    def read(self, n: int) -> bytes:
        if n > self.left:
            raise CheckpointError(f"truncated: {n} more bytes are due and {self.left} are there")
        data = self._stream.read(n)
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        line = self._stream.readline(1024)
        self.left -= len(line)
        return line


def read_tensor(file: Path, *, max_bytes: int | None = None) -> Tensor:
    """The array or int8 weight in one file; int8 stays int8.

    Args:
        file: the tensor file.
        max_bytes: most bytes of values that the tensor can have; a file much
            larger is refused before it is read.

    Raises:
        CheckpointError: missing, truncated, not of the format, or naming a global
            that is not one of the format's. Nothing the file names is executed.
    """
    try:
        with damage_in_words(file):
            size = ordinary_file(file).st_size
            if max_bytes is not None and size > max_bytes + _PICKLE_OVERHEAD:
                raise CheckpointError(
                    f"the file has {size} bytes; a tensor of this place has {max_bytes}"
                )
            with file.open("rb") as stream:
                measured = _Measured(stream, size)
                found = TensorUnpickler(measured).load()
                if measured.left:
                    raise CheckpointError(
                        f"{measured.left} bytes are left after the tensor; expected its end"
                    )
            return _finished(found)
    except FileNotFoundError:
        raise CheckpointError(
            f"{file}: there is no such file. Complete the download or copy of the checkpoint."
        ) from None


def ordinary_file(file: Path) -> os.stat_result:
    """What the file system says of a file that can be read to its end.

    Raises:
        CheckpointError: it is a folder, a pipe or a device.
        OSError: there is no such file.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError("this is no ordinary file")
    return found


@contextmanager
def damage_in_words(file: Path) -> Iterator[None]:
    """Says of whatever the reading of a tensor file raises what is wrong with the file.

    Raises:
        CheckpointError: in place of any other error.
        FileNotFoundError: there is no such file.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}.") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}).") from error
    except MemoryError:
        raise CheckpointError(f"{file}: asks for more memory than there is.") from None
    except Exception as error:  # the unpickler raises many kinds on damaged input
        raise CheckpointError(
            f"{file}: not a tensor file, or truncated ({type(error).__name__}: {error}). "
            "Get the file again."
        ) from error


def _finished(found: Any) -> Tensor:
    if isinstance(found, PickledArray):
        return _array(found)
    if isinstance(found, PickledQuantized) and found.values is not None:
        weight, scales = _array(found.values["weight"]), _array(found.values["scales"])
        _check_quantized(weight, scales)
        return QuantizedWeight8bit(weight, scales)
    raise CheckpointError("the file holds neither an array nor a QuantizedWeight8bit")


def _array(found: Any) -> np.ndarray:
    if not isinstance(found, PickledArray) or found.array is None:
        raise CheckpointError("the file holds something else where an array is due")
    return found.array


def _check_quantized(weight: np.ndarray, scales: np.ndarray) -> None:
    if weight.dtype != np.int8 or scales.dtype not in (np.float32, BFLOAT16):
        raise CheckpointError(
            f"a quantized weight has dtypes {weight.dtype} and {scales.dtype}; "
            "expected int8 and float32 or bfloat16"
        )
    check_scale_shapes(weight.shape, scales.shape)


def check_scale_shapes(weight: tuple[int, ...], scales: tuple[int, ...]) -> None:
    """Raises CheckpointError unless scales [..., G, N] fit a weight [..., K, N], G dividing K."""
    if (
        len(weight) < 2
        or len(scales) != len(weight)
        or scales[:-2] != weight[:-2]
        or scales[-1] != weight[-1]
        or scales[-2] < 1
        or weight[-2] % scales[-2]
    ):
        raise CheckpointError(
            f"scales of shape {list(scales)} do not fit a weight of shape {list(weight)}; "
            "expected [..., G, N] with G dividing the rows"
        )


# --- writing -----------------------------------------------------------------


class _Global:
    """A global that is written by its name and never looked up."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *_: Any) -> Any:  # the pickler asks that a reducer be callable
        raise TypeError(f"{self.module}.{self.name} is only a name")


_NUMPY = "numpy"
_RECONSTRUCT = _Global("numpy.core.multiarray", "_reconstruct")
_NDARRAY = _Global(_NUMPY, "ndarray")
_DTYPE = _Global(_NUMPY, "dtype")
_BFLOAT16_CLASS = _Global("ml_dtypes", "bfloat16")
_QUANTIZED = _Global("__main__", "QuantizedWeight8bit")
_B = b"b"


_PurePickler: Any = pickle._Pickler


class _Pickler(_PurePickler):  # type: ignore[misc]
    """The pure-Python pickler, taught to write the format's globals by name."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, _Global):
            return value.name
        if isinstance(value, np.dtype):
            if value == BFLOAT16:
                return _DTYPE, (_BFLOAT16_CLASS, False, True), (3, "<", *[None] * 3, 2, 2, 64)
            order = "|" if value.itemsize == 1 else "<"
            return _DTYPE, (value.str[1:], False, True), (3, order, *[None] * 3, -1, -1, 0)
        if isinstance(value, np.ndarray):
            fortran = value.flags.f_contiguous and not value.flags.c_contiguous
            data = value.tobytes(order="F" if fortran else "C")
            state = (1, value.shape, value.dtype, fortran, data)
            return _RECONSTRUCT, (_NDARRAY, tuple([0]), _B), state
        return NotImplemented

    def save_global(self, value: Any, name: str | None = None) -> None:
        if not isinstance(value, _Global):
            raise pickle.PicklingError(f"{value!r} is not of the checkpoint format")
        self.save(value.module)
        self.save(value.name)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(value)

    def save_quantized(self, weight: QuantizedWeight8bit) -> None:
        self.save(_QUANTIZED)
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.memoize(weight)
        self.save({"weight": weight.weight, "scales": weight.scales})
        self.write(pickle.BUILD)

    def dump_tensor(self, tensor: Tensor) -> None:
        """`dump`, for an object whose class is written under another name."""
        self.write(pickle.PROTO + struct.pack("<B", self.proto))
        self.framer.start_framing()
        if isinstance(tensor, QuantizedWeight8bit):
            self.save_quantized(tensor)
        else:
            self.save(tensor)
        self.write(pickle.STOP)
        self.framer.end_framing()


def write_tensor(file: Path, tensor: Tensor) -> None:
    """Writes one tensor file in the released format, whole or not at all.

    Raises:
        CheckpointError: a dtype or shape that the format does not have.
    """
    parts = [tensor] if isinstance(tensor, np.ndarray) else [tensor.weight, tensor.scales]
    for part in parts:
        if part.dtype not in _DTYPES.values():
            raise CheckpointError(
                f"{file}: dtype {part.dtype}; expected int8, float32 or bfloat16."
            )
    if isinstance(tensor, QuantizedWeight8bit):
        try:
            _check_quantized(tensor.weight, tensor.scales)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}.") from None
    write_whole(file, lambda stream: _Pickler(stream, protocol=4).dump_tensor(tensor))
