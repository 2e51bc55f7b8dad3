"""Pieces of files read ahead: two at a time, given in the order in which they were asked for."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from grok.checkpoints.tensor_offsets import ArrayLocation, TensorLocation, identity
from grok.errors import CheckpointError
from grok.streaming import read_ahead
from grok.streaming.read_ahead import READS, Buffers, Piece, ReadAhead
from tests.grok.streamed import no_file_left_open, no_thread_left

SIZE, N = 5000, 12  # of a piece, which begins at no block; pieces


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "values"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, SIZE * N, np.uint8).tobytes())
    return path


def pieces(file: Path) -> list[Piece]:
    array = ArrayLocation((SIZE * N,), np.dtype(np.uint8), False, 0)
    tensor = TensorLocation(file, array, None, identity(file, file.stat()))
    return [Piece(tensor, i * SIZE, SIZE, i) for i in range(N)]


def taken(reader: ReadAhead, n: int) -> list[tuple[int, bytes]]:
    found = []
    for _ in range(n):
        filled = reader.take()
        found.append((filled.piece.key, filled.bytes.tobytes()))
        reader.give(filled)
    return found


@pytest.mark.parametrize("direct", [True, False])
def test_pieces_are_the_files_bytes_in_the_order_asked_for(file: Path, direct: bool) -> None:
    content = file.read_bytes()
    with no_thread_left(), no_file_left_open(file.parent):
        with ReadAhead(Buffers(4, SIZE), direct=direct) as reader:
            reader.ask(pieces(file))
            found = taken(reader, N)
            assert reader.bytes_read == len(content)
    assert found == [(i, content[i * SIZE : (i + 1) * SIZE]) for i in range(N)]


def test_a_piece_is_read_while_another_is_and_what_came_first_waits_for_its_turn(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, read = threading.Event(), os.preadv

    def slow(descriptor: int, views: list[memoryview], offset: int) -> int:
        if offset == 0:
            assert second.wait(30)  # the first ends after the second
        n = read(descriptor, views, offset)
        if offset == SIZE:
            second.set()
        return n

    monkeypatch.setattr(read_ahead.os, "preadv", slow)
    with ReadAhead(Buffers(READS + 1, SIZE), direct=False) as reader:
        reader.ask(pieces(file))
        assert [key for key, _ in taken(reader, N)] == list(range(N))


def test_seconds_of_reads_at_the_same_time_are_counted_once(file: Path) -> None:
    began = time.perf_counter()
    with ReadAhead(Buffers(4, SIZE), direct=False) as reader:
        reader.ask(pieces(file))
        seconds = 0.0
        for _ in range(N):
            filled = reader.take()
            assert filled.seconds >= 0
            seconds += filled.seconds
            reader.give(filled)
    assert 0 < seconds <= time.perf_counter() - began


def test_what_was_read_before_a_piece_that_cannot_be_read_is_given_and_then_the_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, read = threading.Event(), os.preadv

    def broken(descriptor: int, views: list[memoryview], offset: int) -> int:
        if offset == SIZE * 3:
            failed.set()
            raise OSError(5, "Input/output error")
        if offset == SIZE * 2:
            assert failed.wait(30)  # the piece before it ends after it
        return read(descriptor, views, offset)

    monkeypatch.setattr(read_ahead.os, "preadv", broken)
    with no_thread_left(), ReadAhead(Buffers(4, SIZE), direct=False) as reader:
        reader.ask(pieces(file))
        assert [key for key, _ in taken(reader, 3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(CheckpointError, match="cannot be read at byte 15000"):
                reader.take()


def test_a_list_of_pieces_that_fails_is_told_to_who_takes(file: Path) -> None:
    def some() -> object:
        yield pieces(file)[0]
        raise KeyError("no such expert")

    with ReadAhead(Buffers(2, SIZE), direct=False) as reader:
        reader.ask(some())  # type: ignore[arg-type]
        assert taken(reader, 1)[0][0] == 0
        with pytest.raises(KeyError, match="no such expert"):
            reader.take()


class Asker:
    """Refers to its reader, and is referred to by the pieces that it asks for, as a pass is."""

    def __init__(self, reader: ReadAhead, file: Path) -> None:
        self.reader, self.file = reader, file
        reader.ask(self.pieces())

    def pieces(self) -> Iterator[Piece]:
        yield from pieces(self.file)


def test_a_reader_lets_go_of_whoever_asked_for_pieces_that_were_not_read(file: Path) -> None:
    gc.disable()
    try:
        buffers = Buffers(2, SIZE)
        with ReadAhead(buffers, direct=False) as reader:
            asker = Asker(reader, file)
            filled = reader.take()  # the rest waits for a buffer
        gone = weakref.ref(asker)
        del asker, reader, filled
        assert gone() is None
    finally:
        gc.enable()
