"""The token embedding of a checkpoint, by rows: Grok-1's is 3.2 GB and is never held whole.

Axes: token (V, the vocabulary), d_model (d).

The place of the values inside their file is found by the same restricted reader
that reads whole tensors, which here steps over them. Blocks of rows are then read
at that place into one buffer. This module needs numpy alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from grok.checkpoint import EMBEDDING, Checkpoint, expected_shape
from grok.errors import CheckpointError
from grok.tensor_file import _ALLOWED, _Array, _Dispatch, _Dtype, _Ndarray, _Unpickler, pickle

# Everything in such a file but the values: the released one has 165 bytes of it.
MAX_OVERHEAD = 64 * 1024

Progress = Callable[[int, int], None]
"""Called with the number of rows read so far and the number to read; may raise to stop."""


@dataclass(frozen=True)
class FileIdentity:
    """What tells that a file is still the one it was, without reading it."""

    path: str
    size: int
    modified_ns: int
    inode: int


@dataclass(frozen=True)
class TokenEmbedding:
    """The embedding of one checkpoint, checked for shape and size, its values still on disk.

    Attributes:
        file: the tensor file.
        n_tokens: rows.
        d_model: columns.
        multiplier: the factor that the model puts on the embedding.
        dtype: of the stored values: float32 or bfloat16.
        offset: byte at which the values begin.
        fortran: stored column by column.
        identity: of the file as it was when opened.
    """

    file: Path
    n_tokens: int
    d_model: int
    multiplier: float
    dtype: np.dtype
    offset: int
    fortran: bool
    identity: FileIdentity

    @property
    def n_bytes(self) -> int:
        """Bytes of the values in the file."""
        return self.n_tokens * self.d_model * self.dtype.itemsize

    def row(self, token: int) -> np.ndarray:
        """The embedding of one token, float32 [d_model], without the multiplier.

        Raises:
            CheckpointError: there is no such token, the file changed or cannot be read,
                or the row holds something that is not finite.
        """
        if not 0 <= token < self.n_tokens:
            raise CheckpointError(
                f"{self.file}: there is no token {token}; expected 0 to {self.n_tokens - 1}."
            )
        with self._opened() as stream:
            row = self._read(stream, token, token + 1, None)[0].astype(np.float32)
        if not np.isfinite(row).all():
            raise CheckpointError(
                f"{self.file}: the embedding of token {token} is not finite. "
                "The file is damaged; get it again."
            )
        return row

    def blocks(self, rows: int, progress: Progress | None = None) -> Iterator[np.ndarray]:
        """All rows in order, float32 [rows or fewer, d_model], without the multiplier.

        A block may be changed, and is gone when the next one is asked for: they share
        one buffer of `rows * d_model` values (two where the file holds bfloat16).

        Raises:
            CheckpointError: the file cannot be read, is shorter than it was, or changes
                meanwhile.
        """
        if rows < 1:
            raise ValueError(f"a block of {rows} rows; expected at least 1")
        rows = min(rows, self.n_tokens)
        buffer = np.empty((rows, self.d_model), self.dtype)
        wide = buffer if self.dtype == np.float32 else np.empty(buffer.shape, np.float32)
        with self._opened() as stream:
            for start in range(0, self.n_tokens, rows):
                stop = min(start + rows, self.n_tokens)
                block = self._read(stream, start, stop, buffer)
                if wide is not buffer:
                    wide[: len(block)] = block
                yield wide[: stop - start]
                if progress is not None:
                    progress(stop, self.n_tokens)
            self._check_unchanged(os.fstat(stream.fileno()))

    def _opened(self) -> IO[bytes]:
        try:
            stream = self.file.open("rb", buffering=0)
        except OSError as error:
            raise CheckpointError(f"{self.file}: cannot be read ({error.strerror}).") from error
        try:
            self._check_unchanged(os.fstat(stream.fileno()))
        except BaseException:
            stream.close()
            raise
        return stream

    def _check_unchanged(self, found: os.stat_result) -> None:
        if _identity(self.file, found) != self.identity:
            raise CheckpointError(
                f"{self.file}: the file changed since it was opened. Open the checkpoint again."
            )

    def _read(
        self, stream: IO[bytes], start: int, stop: int, buffer: np.ndarray | None
    ) -> np.ndarray:
        shape = (stop - start, self.d_model)
        into = np.empty(shape, self.dtype) if buffer is None else buffer[: stop - start]
        if self.fortran:
            whole = np.memmap(
                self.file, self.dtype, "r", self.offset, (self.n_tokens, self.d_model), "F"
            )
            into[:] = whole[start:stop]
            return into
        try:
            stream.seek(self.offset + start * self.d_model * self.dtype.itemsize)
            view = into.reshape(-1).view(np.uint8).data
            while view:
                n: int = stream.readinto(view)  # type: ignore[attr-defined]
                if not n:
                    raise CheckpointError(
                        f"{self.file}: the file ends at row {start} or soon after; expected "
                        f"{self.n_tokens} rows. Complete the download or copy of the checkpoint."
                    )
                view = view[n:]
        except OSError as error:
            raise CheckpointError(f"{self.file}: cannot be read ({error.strerror}).") from error
        return into


def open_embedding(checkpoint: Checkpoint) -> TokenEmbedding:
    """The token embedding of a checkpoint, ready to be read by rows.

    Nothing that the file names is executed, and of its values none is read here.

    Raises:
        CheckpointError: the file is missing, truncated, of another shape or dtype, or
            holds anything foreign to the format.
    """
    file = checkpoint.file(EMBEDDING)
    shape = expected_shape(checkpoint.config, EMBEDDING)
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError("this is no ordinary file")
        with file.open("rb") as stream:
            values, offset = _locate(stream, found.st_size)
    except FileNotFoundError:
        raise CheckpointError(
            f"{file}: there is no such file. It holds the token embedding; the routers can be "
            "read without it, what the experts listen to cannot. Complete the download or copy "
            "of the checkpoint."
        ) from None
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}.") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}).") from error
    except Exception as error:  # the unpickler raises many kinds on damaged input
        raise CheckpointError(
            f"{file}: not a tensor file, or truncated ({type(error).__name__}: {error}). "
            "Get the file again."
        ) from error
    if values.shape != shape:
        raise CheckpointError(
            f"{file} ({EMBEDDING}): shape {list(values.shape)}; expected {list(shape)}. "
            "Check that config.json belongs to this checkpoint."
        )
    if values.dtype == np.int8:
        raise CheckpointError(f"{file} ({EMBEDDING}): dtype int8; expected float32 or bfloat16.")
    return TokenEmbedding(
        file=file,
        n_tokens=shape[0],
        d_model=shape[1],
        multiplier=float(checkpoint.config.embedding_multiplier),
        dtype=values.dtype,
        offset=offset,
        fortran=values.fortran,
        identity=_identity(file, found),
    )


def _identity(file: Path, found: os.stat_result) -> FileIdentity:
    return FileIdentity(str(file.resolve()), found.st_size, found.st_mtime_ns, found.st_ino)


# --- where the values are ----------------------------------------------------


@dataclass(frozen=True)
class _Payload:
    """The bytes of an array, by their place in the file."""

    offset: int
    size: int


class _Located(_Array):
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
            not isinstance(dtype, _Dtype)
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
    if kind is not _Ndarray:
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


class _Locator(_Unpickler):
    """The restricted unpickler, taught to note where an array's bytes are and step over them."""

    dispatch = _Dispatch(_Unpickler.dispatch)

    def __init__(self, file: _Skimmed) -> None:
        super().__init__(file)
        self._skimmed = file

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        replaced = _ALLOWED["numpy.core.multiarray", "_reconstruct"]
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


def _locate(stream: IO[bytes], size: int) -> tuple[_Located, int]:
    """What the array in a tensor file is, and the byte at which its values begin."""
    skimmed = _Skimmed(stream, size)
    found = _Locator(skimmed).load()
    if not isinstance(found, _Located) or found.payload is None:
        raise CheckpointError("the file holds something else than a plain array")
    if skimmed.left:
        raise CheckpointError(f"{skimmed.left} bytes are left after the tensor; expected its end")
    return found, found.payload.offset
