"""The token embedding of a checkpoint, by rows: Grok-1's is 3.2 GB and is never held whole.

Axes: token (V, the vocabulary), d_model (d).

The place of the values inside their file is found by the same restricted reader
that reads whole tensors, which here steps over them. Blocks of rows are then read
at that place into one buffer. This module needs numpy alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from grok.checkpoints.grok1 import Checkpoint as Grok1Checkpoint
from grok.checkpoints.grok1 import outer_specs
from grok.checkpoints.tensor_offsets import FileIdentity, TensorLocation, identity
from grok.checkpoints.tensor_spec import Checkpoint, TensorSpec, check_shape
from grok.errors import CheckpointError

EPSILON = 1e-5  # of Grok-1's norms
Progress = Callable[[int, int], None]
"""Called with the number of rows read so far and the number to read; may raise to stop."""


@dataclass(frozen=True)
class TokenEmbedding:
    """The embedding of one checkpoint, checked for shape and dtype, its values still on disk.

    Attributes:
        tensor: where they lie.
        multiplier: the factor that the model puts on the embedding.
        epsilon: added to the mean of squares in the model's norms.
        centred: the model's norms take each row's mean off first.
    """

    tensor: TensorLocation
    multiplier: float
    epsilon: float = EPSILON
    centred: bool = False

    @property
    def file(self) -> Path:
        """The file that holds it."""
        return self.tensor.file

    @property
    def n_tokens(self) -> int:
        """Rows."""
        return self.tensor.weight.shape[0]

    @property
    def d_model(self) -> int:
        """Columns."""
        return self.tensor.weight.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of the stored values: float32, or bfloat16 or float16."""
        return self.tensor.weight.dtype

    @property
    def offset(self) -> int:
        """Byte at which the values begin."""
        return self.tensor.weight.offset

    @property
    def fortran(self) -> bool:
        """Stored column by column."""
        return self.tensor.weight.fortran

    @property
    def identity(self) -> FileIdentity:
        """Of the file as it was when opened."""
        return self.tensor.identity

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

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        """The embeddings of several tokens as stored [len(tokens), d_model].

        Raises:
            CheckpointError: as `row`.
        """
        found = np.empty((len(tokens), self.d_model), self.dtype)
        with self._opened() as stream:
            for i, token in enumerate(tokens):
                self._read(stream, int(token), int(token) + 1, found[i : i + 1])
        if not np.isfinite(found).all():
            raise CheckpointError(
                f"{self.file}: embeddings that are needed are not finite. The file is damaged; "
                "get it again."
            )
        return found

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
        if identity(self.file, found) != self.identity:
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


def open_embedding(checkpoint: Grok1Checkpoint) -> TokenEmbedding:
    """The token embedding of a checkpoint in Grok-1's format, ready to be read by rows.

    Nothing that the file names is executed, and of its values none is read here.

    Raises:
        CheckpointError: the file is missing, truncated, of another shape or dtype, or
            holds anything foreign to the format.
    """
    embedding, _ = outer_specs(checkpoint.config)
    file = checkpoint.file(embedding.names[0])
    if not file.exists():
        raise CheckpointError(
            f"{file}: there is no such file. It holds the token embedding; the routers can be "
            "read without it, what the experts listen to cannot. Complete the download or copy "
            "of the checkpoint."
        )
    multiplier = float(checkpoint.config.embedding_multiplier)
    return table_of(checkpoint, embedding, multiplier=multiplier)


def table_of(
    checkpoint: Checkpoint,
    spec: TensorSpec,
    *,
    multiplier: float = 1.0,
    epsilon: float = EPSILON,
    centred: bool = False,
) -> TokenEmbedding:
    """A table with a row for each token, the embedding or the head, its values still on disk.

    Args:
        checkpoint: holds it.
        spec: of the table [V, D].
        multiplier, epsilon, centred: see `TokenEmbedding`.

    Raises:
        CheckpointError: missing, truncated, or of another shape or dtype.
    """
    (name,) = spec.names
    tensor = checkpoint.locate(name)
    values = tensor.weight
    check_shape(checkpoint, spec, name, values.shape)
    if values.dtype == np.int8 or tensor.scales is not None:
        raise CheckpointError(f"{tensor.file} ({name}): dtype int8; expected float32 or bfloat16.")
    return TokenEmbedding(tensor, multiplier, epsilon, centred)
