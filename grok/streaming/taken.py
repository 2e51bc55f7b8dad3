"""What a walk over streamed layers takes from its reader, and what each layer took of it."""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Any

from grok.engine.interfaces import LayerFigures
from grok.streaming.read_ahead import Filled, ReadAhead


class Taken:
    """Pieces in the order in which they were asked for.

    Args:
        reader: that was asked for them.
        unused: (layer, expert) of experts that nobody chose: theirs are passed over.
    """

    def __init__(self, reader: ReadAhead, unused: Container[Any]) -> None:
        self._reader, self._unused = reader, unused
        self.begin()

    def begin(self) -> None:
        """A new layer."""
        self._began = time.perf_counter()
        self._n_bytes, self._read, self._waited = 0, 0.0, 0.0

    def piece(self, key: tuple[Any, ...]) -> Filled:
        """The piece of this key, waiting for it when need be; to be given back.

        Raises:
            CheckpointError: it cannot be read.
        """
        began = time.perf_counter()
        while True:
            filled = self._reader.take()
            if filled.piece.key == key:
                self._waited += time.perf_counter() - began
                self._n_bytes += filled.piece.n_bytes
                self._read += filled.seconds
                return filled
            if filled.piece.key[:2] not in self._unused:
                raise AssertionError(f"{filled.piece.key} came where {key} was due")
            self._reader.give(filled)

    def figures(self, layer: int, hits: int = 0, misses: int = 0) -> LayerFigures:
        """Of the layer, which is over."""
        seconds = time.perf_counter() - self._began
        computed = seconds - self._waited
        return LayerFigures(
            layer, self._n_bytes, self._read, computed, self._waited, seconds, hits, misses
        )
