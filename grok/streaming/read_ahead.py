"""Pieces of files read ahead by threads into a few buffers that are used again and again.

The threads fill free buffers in the order in which pieces were asked for; whoever uses them takes
them in the same order and gives each back. So memory is bounded by the buffers, and the disk works
while what it brought is computed with. One thread's piece is read while another hands its own over
or waits for a processor, so that the disk has always something to do.

Large checkpoints are read past the page cache (O_DIRECT): they would only push everything else out
of it. Where a file system cannot do that, reads go through it.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grok.checkpoints.room import pages
from grok.checkpoints.tensor_offsets import TensorLocation, identity
from grok.errors import CheckpointError

BLOCK = 4096  # what direct reads are aligned to
READS = 2  # pieces that are read at the same time


@dataclass(frozen=True)
class Piece:
    """Some bytes of a tensor file.

    Attributes:
        tensor: the file.
        offset: first byte.
        n_bytes: their number.
        key: names the piece to the caller that asked for it.
    """

    tensor: TensorLocation
    offset: int
    n_bytes: int
    key: Any


@dataclass
class Filled:
    """A piece in memory, until it is given back.

    Attributes:
        piece: the piece of the file.
        bytes: its bytes, uint8 [n_bytes]; a view of a buffer that is used again.
        seconds: that its reading took; while two are read, those of the first count for it alone.
    """

    piece: Piece
    bytes: np.ndarray
    seconds: float
    _buffer: mmap.mmap | None = None


@dataclass
class _State:
    asked: deque[Iterator[Piece]] = field(default_factory=deque)
    ready: dict[int, Filled | BaseException] = field(default_factory=dict)  # by turn
    free: list[mmap.mmap] = field(default_factory=list)
    turn: int = 0  # of the piece that is read next
    due: int = 0  # of the piece that is taken next
    error: BaseException | None = None
    ended: float = 0.0  # when the last read did
    closing: bool = False


class Buffers:
    """Memory that pieces are read into. It is kept from pass to pass: the system takes most of a
    second to hand out a gigabyte of fresh pages.

    Attributes:
        n: how many.
        piece_bytes: the largest piece that one holds.
        memory: the buffers.
    """

    def __init__(self, n: int, piece_bytes: int) -> None:
        self.n, self.piece_bytes = n, piece_bytes
        self.memory = [pages(piece_bytes + 2 * BLOCK) for _ in range(n)]


class ReadAhead:
    """The threads and their buffers; use it in a `with` block.

    Args:
        buffers: what pieces are read into; at least 2 to read while computing.
        direct: read past the page cache.
        unwanted: asked right before a piece is read; True passes it over, and it never comes.

    Attributes:
        bytes_read: from files so far.
    """

    def __init__(
        self,
        buffers: Buffers,
        *,
        direct: bool = True,
        unwanted: Callable[[Piece], bool] = lambda piece: False,
    ) -> None:
        self.bytes_read = 0
        self.buffer_bytes = buffers.piece_bytes
        self._direct, self._unwanted = direct, unwanted
        self._moved = threading.Condition()
        self._state = _State(free=list(buffers.memory))
        self._threads = [
            threading.Thread(target=self._work, name=f"read-ahead {i}", daemon=True)
            for i in range(min(READS, max(1, buffers.n - 1)))
        ]

    def __enter__(self) -> ReadAhead:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._moved:
            self._state.closing = True
            self._moved.notify_all()
        for thread in self._threads:
            thread.join()
        # What was not read refers to who asked for it, who refers to this reader: left here, it
        # would hold a model, with all its buffers, until Python looks for cycles.
        self._state = _State(closing=True)

    def ask(self, pieces: Iterable[Piece]) -> None:
        """Puts pieces behind those asked for before."""
        with self._moved:
            self._state.asked.append(iter(pieces))
            self._moved.notify_all()

    def take(self) -> Filled:
        """The next piece, waiting for it when need be.

        Raises:
            CheckpointError: it cannot be read, or its file is not what it was.
        """
        state = self._state
        with self._moved:
            while state.due not in state.ready:
                if state.error is not None:
                    raise state.error
                self._moved.wait()
            found = state.ready[state.due]
            if isinstance(found, BaseException):  # it stays, for whoever takes again
                raise found
            del state.ready[state.due]
            state.due += 1
            return found

    def give(self, filled: Filled) -> None:
        """Gives a piece's buffer back; its bytes must not be used any more."""
        with self._moved:
            if filled._buffer is not None:
                self._state.free.append(filled._buffer)
            filled._buffer, filled.bytes = None, np.empty(0, np.uint8)
            self._moved.notify_all()

    # the threads

    def _work(self) -> None:
        state, file = self._state, _OpenFile(self._direct)
        try:
            while True:
                with self._moved:
                    while not state.closing and not (state.asked and state.free):
                        self._moved.wait()
                    if state.closing:
                        return
                    piece = next(state.asked[0], None)
                    if piece is None:
                        state.asked.popleft()
                        continue
                    if self._unwanted(piece):
                        continue
                    buffer, turn = state.free.pop(), state.turn
                    state.turn += 1
                self._fill(file, piece, buffer, turn)
        except BaseException as error:  # raised again by who takes the next piece
            with self._moved:
                state.error = error
                self._moved.notify_all()
        finally:
            file.shut()

    def _fill(self, file: _OpenFile, piece: Piece, buffer: mmap.mmap, turn: int) -> None:
        """Reads a piece, for whoever takes it when its turn comes; or what kept it from that."""
        state, began = self._state, time.perf_counter()
        found: Filled | BaseException
        try:
            view = self._read(file, piece, buffer)
            found = Filled(piece, view, 0.0, buffer)
        except BaseException as error:
            found = error
        with self._moved:
            if isinstance(found, Filled):
                now = time.perf_counter()
                found.seconds, state.ended = now - max(began, state.ended), now
                self.bytes_read += piece.n_bytes
            else:
                state.closing = True  # nothing after it will be taken
            state.ready[turn] = found
            self._moved.notify_all()

    def _read(self, opened: _OpenFile, piece: Piece, buffer: mmap.mmap) -> np.ndarray:
        """The bytes of a piece, in a buffer."""
        file = piece.tensor.file
        if piece.n_bytes > self.buffer_bytes:
            raise ValueError(f"a piece of {piece.n_bytes} bytes, buffers of {self.buffer_bytes}")
        try:
            descriptor, direct = opened.descriptor(file)
            # Without direct reads the bytes begin with the buffer, aligned for all uses.
            first = piece.offset - (piece.offset % BLOCK if direct else 0)
            lead = piece.offset - first
            wanted = lead + piece.n_bytes
            length = -(-wanted // BLOCK) * BLOCK if direct else wanted
            view = memoryview(buffer)
            got = 0
            while got < wanted:
                n = os.preadv(descriptor, [view[got:length]], first + got)
                if n == 0:
                    raise CheckpointError(
                        f"{file}: the file ends at byte {first + got}; {piece.offset}"
                        f"+{piece.n_bytes} bytes were expected. It was cut since it was opened; "
                        "complete the download or copy of the checkpoint and start again."
                    )
                got += n
                if direct and got % BLOCK and got < wanted:
                    raise CheckpointError(
                        f"{file}: the file ends at byte {first + got}, in the middle of a tensor. "
                        "Complete the download or copy of the checkpoint and start again."
                    )
            _check(piece.tensor, descriptor)
        except OSError as error:
            raise CheckpointError(
                f"{file}: cannot be read at byte {piece.offset} ({error.strerror}). Check the "
                "disk and start again; a pass that keeps its state goes on where it stopped."
            ) from error
        return np.frombuffer(buffer, np.uint8)[lead : lead + piece.n_bytes]


class _OpenFile:
    """The file that a thread reads, until it reads another."""

    def __init__(self, direct: bool) -> None:
        self._direct = direct
        self._open: tuple[Path, int, bool] | None = None

    def descriptor(self, file: Path) -> tuple[int, bool]:
        """Of the open file, and whether reads go past the page cache."""
        if self._open is None or self._open[0] != file:
            self.shut()
            self._open = (file, *_opened(file, self._direct))
        return self._open[1:]

    def shut(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


def _check(tensor: TensorLocation, descriptor: int) -> None:
    if identity(tensor.file, os.fstat(descriptor)) != tensor.identity:
        raise CheckpointError(
            f"{tensor.file}: the file changed since the model was opened. Open it again."
        )


def _opened(file: Path, direct: bool) -> tuple[int, bool]:
    if direct and hasattr(os, "O_DIRECT"):
        try:
            return os.open(file, os.O_RDONLY | os.O_DIRECT), True
        except OSError as error:
            # This file system has no direct reads.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    return os.open(file, os.O_RDONLY), False
