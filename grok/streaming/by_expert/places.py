"""Memory that weights lie in, used again when what lay in it is gone.

The system takes about as long to hand out fresh pages as a fast disk takes to fill them.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from typing import Any

import numpy as np

from grok.checkpoints.room import LARGE_PAGE, pages, room


class Places:
    """Arrays to be filled, which begin where processors compute on them as they lie.

    An array's memory is free again when nothing refers to it any more, a computation neither.

    Args:
        max_bytes: of large arrays, those in use and what is free for others. More can be in use;
            then nothing is kept.

    Attributes:
        n_bytes: in use or free.
        n_free: free.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.n_bytes, self.n_free = max_bytes, 0, 0
        self._free: dict[int, list[mmap.mmap]] = {}  # by size
        self._lock = threading.RLock()  # memory may come back while one is taken

    def room(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """As `grok.checkpoints.room.room`; what lay there before is still in it."""
        n_values = math.prod(shape)
        size = n_values * np.dtype(dtype).itemsize
        if size < LARGE_PAGE:
            return room(shape, dtype)
        with self._lock:
            free = self._free.get(size)
            if free:
                memory = free.pop()
                self.n_free -= size
            else:
                self._let_go(self.max_bytes - size)
                memory = pages(size)
                self.n_bytes += size
        whole = np.frombuffer(memory, np.uint8, size)
        weakref.finalize(whole, self._back, memory, size).atexit = False
        return whole.view(dtype).reshape(shape)

    def resize(self, max_bytes: int) -> None:
        """Keep at most so much from now on."""
        with self._lock:
            self.max_bytes = max_bytes
            self._let_go(max_bytes)

    def _back(self, memory: mmap.mmap, size: int) -> None:
        with self._lock:
            self._free.setdefault(size, []).append(memory)
            self.n_free += size
            self._let_go(self.max_bytes)

    def _let_go(self, most: int) -> None:
        """Gives free memory back to the system until at most so many bytes are had."""
        for size, free in self._free.items():
            while free and self.n_bytes > most:
                free.pop()
                self.n_bytes -= size
                self.n_free -= size
