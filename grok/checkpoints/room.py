"""Memory that files are read into."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np

PAGE, LARGE_PAGE = 4096, 2**21


def pages(size: int) -> mmap.mmap:
    """Page-aligned memory, in large pages where the system has them."""
    made = mmap.mmap(-1, -(-size // PAGE) * PAGE)
    if size >= LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            made.madvise(mmap.MADV_HUGEPAGE)
    return made


def room(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array to be filled. A large one begins with a page, so that processors compute on it as it
    lies: of memory that begins elsewhere they would make a copy first."""
    size = math.prod(shape)
    if size * np.dtype(dtype).itemsize < LARGE_PAGE:
        return np.empty(shape, dtype)
    return np.frombuffer(pages(size * np.dtype(dtype).itemsize), dtype, size).reshape(shape)
