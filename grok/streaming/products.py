"""Products of a few float rows with int8 weights, without a float copy of the weights.

Axes: C rows, K contracting axis, N columns.

Weights are widened in registers, or a tile at a time where many rows share the work or where the
scaled values have to be rounded as the compiled model rounds them. Neither weights nor rows are
quantized further; sums are float32. The inner loops are in `grok.streaming.tiles`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

import numba
import numpy as np

from grok.streaming.tiles import (
    LANES,
    WIDE,
    WIDTH,
    add_float_1,
    add_float_2,
    add_float_3,
    add_float_4,
    add_int8_1,
    add_int8_2,
    add_int8_3,
    add_int8_4,
    add_int8_wide,
    widened,
)

DEPTH = 128  # rows of weights that are widened together
# From this many rows on a widened tile is cheaper than widening in registers for every four.
MANY_ROWS = 12


def threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix="products")


def add_product(
    out: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    scales: np.ndarray | None,
    *,
    rounded: bool = False,
) -> None:
    """out += x @ (w * scales), in float32.

    Args:
        out: [C, N] float32, C order, changed in place.
        x: [C, K] float32.
        w: [K, N] int8, C order; or floats.
        scales: [N] float32 of int8 weights, None of floats.
        rounded: int8 times scale is rounded to bfloat16, as the compiled model does when
            activations and scales are bfloat16. Otherwise the scale is applied to the sums.
    """
    if w.dtype != np.int8:
        out += x @ w.astype(np.float32)
        return
    assert scales is not None
    x = np.ascontiguousarray(x)
    tiled = rounded or len(x) >= MANY_ROWS
    cuts = _cuts(w.shape[1], threads())
    work = [
        _pool().submit(_columns, x, w, scales, out, first, last, tiled, rounded)
        for first, last in zip(cuts, cuts[1:], strict=False)
    ]
    wait(work)
    for one in work:
        one.result()


def _cuts(columns: int, parts: int) -> list[int]:
    """Where the columns are cut: all parts but the last are whole wide tiles."""
    step = max(WIDE, -(-columns // (parts * WIDE)) * WIDE)
    return [*range(0, columns, step), columns]


@numba.njit(nogil=True, boundscheck=False, cache=True)
def _columns(
    x: np.ndarray,
    w: np.ndarray,
    scales: np.ndarray,
    out: np.ndarray,
    first: int,
    last: int,
    tiled: bool,
    rounded: bool,
) -> None:
    """Columns `first` to `last` of the product."""
    rows, depth = x.shape
    columns = w.shape[1]
    x_at, w_at = x.ctypes.data, w.ctypes.data
    left = first
    if rows == 1 and not tiled:
        wide = np.empty(WIDE, np.float32)
        while left + WIDE <= last:
            wide[:] = 0
            add_int8_wide(x_at, depth, w_at + left, columns, wide.ctypes.data, WIDE, depth)
            for n in range(WIDE):
                out[0, left + n] += wide[n] * scales[left + n]
            left += WIDE
    sums = np.empty((rows, WIDTH), np.float32)
    tile = np.empty((DEPTH, WIDTH), np.float32)
    rest = np.empty((DEPTH, WIDTH), np.int8)
    own = np.ones(WIDTH, np.float32)
    sums_at, tile_at, rest_at = sums.ctypes.data, tile.ctypes.data, rest.ctypes.data
    while left < last:
        width = min(WIDTH, last - left)
        sums[:] = 0
        if rounded:
            for n in range(width):
                own[n] = scales[left + n]
        for top in range(0, depth, DEPTH):
            k = min(DEPTH, depth - top)
            at, stride = w_at + top * columns + left, columns
            if width < WIDTH:  # columns that fill no tile are copied into one
                rest[:] = 0
                for i in range(k):
                    for n in range(width):
                        rest[i, n] = w[top + i, left + n]
                at, stride = rest_at, WIDTH
            if tiled:
                widened(at, stride, own.ctypes.data, tile_at, k, rounded)
            r = 0
            while r < rows:
                several = min(4, rows - r)
                x_own, sums_own = x_at + 4 * (r * depth + top), sums_at + 4 * r * WIDTH
                if tiled:
                    if several == 4:
                        add_float_4(x_own, depth, tile_at, WIDTH, sums_own, WIDTH, k)
                    elif several == 3:
                        add_float_3(x_own, depth, tile_at, WIDTH, sums_own, WIDTH, k)
                    elif several == 2:
                        add_float_2(x_own, depth, tile_at, WIDTH, sums_own, WIDTH, k)
                    else:
                        add_float_1(x_own, depth, tile_at, WIDTH, sums_own, WIDTH, k)
                elif several == 4:
                    add_int8_4(x_own, depth, at, stride, sums_own, WIDTH, k)
                elif several == 3:
                    add_int8_3(x_own, depth, at, stride, sums_own, WIDTH, k)
                elif several == 2:
                    add_int8_2(x_own, depth, at, stride, sums_own, WIDTH, k)
                else:
                    add_int8_1(x_own, depth, at, stride, sums_own, WIDTH, k)
                r += several
        for r in range(rows):
            for n in range(width):
                if rounded:
                    out[r, left + n] += sums[r, n]
                else:
                    out[r, left + n] += sums[r, n] * scales[left + n]
        left += WIDTH
    tile[0, 0] = 0  # used, so that it is not given back while its address is


__all__ = ["DEPTH", "LANES", "MANY_ROWS", "add_product", "threads"]
