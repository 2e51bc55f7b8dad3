"""Memory that files are read into."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np

PAGE, LARGE_PAGE = 4096, 2**21
ALIGNED = 64  # bytes; memory that processors compute on as it lies begins at a multiple


def pages(size: int) -> mmap.mmap:
    """Page-aligned memory, in large pages where the system has them."""
    # Memory that is shared with other processes comes in small pages.
    made = mmap.mmap(-1, -(-size // PAGE) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            made.madvise(mmap.MADV_HUGEPAGE)
    return made


def room(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array to be filled, which begins where processors compute on it as it lies: of memory that
    begins elsewhere they would make a copy first. A large one begins with a page."""
    size = math.prod(shape)
    n_bytes = size * np.dtype(dtype).itemsize
    if n_bytes >= LARGE_PAGE:
        return np.frombuffer(pages(n_bytes), dtype, size).reshape(shape)
    more = np.empty(n_bytes + ALIGNED, np.uint8)
    lead = -more.ctypes.data % ALIGNED
    return more[lead : lead + n_bytes].view(dtype).reshape(shape)
