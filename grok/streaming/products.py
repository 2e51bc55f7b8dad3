"""Products of a few float rows with int8 weights, without a float copy of the weights.

Axes: C rows, K contracting axis, N columns.

The weights are walked through once, a tile of columns and rows at a time, converted in registers,
and the column's scale is applied to the sum. Weights and rows are not quantized further: int8 is
exact in float32, the sums are float32.

Why these are compiled loops (numba) and not a library call: every library at hand takes floats, so
the weights have to be widened into memory first, which moves four times their bytes again. The
benchmark of the products prints those ways beside this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

import numba
import numpy as np

TILE_COLUMNS = 512
TILE_ROWS = 64


def threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix="products")


def add_product(out: np.ndarray, x: np.ndarray, w: np.ndarray, scales: np.ndarray | None) -> None:
    """out += (x @ w) * scales, in float32.

    Args:
        out: [C, N] float32, changed in place.
        x: [C, K] float32.
        w: [K, N] int8, or floats.
        scales: [N] float32 of int8 weights, None of floats.
    """
    if w.dtype != np.int8:
        out += x @ w.astype(np.float32)
        return
    assert scales is not None
    x = np.ascontiguousarray(x)
    cuts = _cuts(w.shape[1], threads())
    kernel: Callable[..., None] = _one_row if len(x) == 1 else _rows
    work = [
        _pool().submit(kernel, x, w, scales, out, first, last)
        for first, last in zip(cuts, cuts[1:], strict=False)
    ]
    wait(work)
    for one in work:
        one.result()


def _cuts(columns: int, parts: int) -> list[int]:
    step = -(-columns // (parts * 64)) * 64
    return [*range(0, columns, step), columns]


@numba.njit(nogil=True, fastmath=True, boundscheck=False, cache=True)
def _one_row(
    x: np.ndarray, w: np.ndarray, scales: np.ndarray, out: np.ndarray, first: int, last: int
) -> None:
    k = x.shape[1]
    sums = np.zeros(last - first, np.float32)
    even = k - k % 8
    for i in range(0, even, 8):
        a, b, c, d = x[0, i], x[0, i + 1], x[0, i + 2], x[0, i + 3]
        e, f, g, h = x[0, i + 4], x[0, i + 5], x[0, i + 6], x[0, i + 7]
        for n in range(last - first):
            m = first + n
            sums[n] += (
                a * np.float32(w[i, m])
                + b * np.float32(w[i + 1, m])
                + c * np.float32(w[i + 2, m])
                + d * np.float32(w[i + 3, m])
                + e * np.float32(w[i + 4, m])
                + f * np.float32(w[i + 5, m])
                + g * np.float32(w[i + 6, m])
                + h * np.float32(w[i + 7, m])
            )
    for i in range(even, k):
        a = x[0, i]
        for n in range(last - first):
            sums[n] += a * np.float32(w[i, first + n])
    for n in range(last - first):
        out[0, first + n] += sums[n] * scales[first + n]


@numba.njit(nogil=True, fastmath=True, boundscheck=False, cache=True)
def _rows(
    x: np.ndarray, w: np.ndarray, scales: np.ndarray, out: np.ndarray, first: int, last: int
) -> None:
    rows, k = x.shape
    fours = rows - rows % 4
    sums = np.empty((rows, TILE_COLUMNS), np.float32)
    for left in range(first, last, TILE_COLUMNS):
        width = min(TILE_COLUMNS, last - left)
        sums[:] = 0
        for top in range(0, k, TILE_ROWS):
            bottom = min(top + TILE_ROWS, k)
            even = bottom - (bottom - top) % 4
            for r in range(0, fours, 4):
                s0, s1, s2, s3 = sums[r], sums[r + 1], sums[r + 2], sums[r + 3]
                for i in range(top, even, 4):
                    w0, w1, w2, w3 = w[i], w[i + 1], w[i + 2], w[i + 3]
                    a0, a1, a2, a3 = x[r, i], x[r, i + 1], x[r, i + 2], x[r, i + 3]
                    b0, b1, b2, b3 = x[r + 1, i], x[r + 1, i + 1], x[r + 1, i + 2], x[r + 1, i + 3]
                    c0, c1, c2, c3 = x[r + 2, i], x[r + 2, i + 1], x[r + 2, i + 2], x[r + 2, i + 3]
                    d0, d1, d2, d3 = x[r + 3, i], x[r + 3, i + 1], x[r + 3, i + 2], x[r + 3, i + 3]
                    for n in range(width):
                        p = np.float32(w0[left + n])
                        q = np.float32(w1[left + n])
                        u = np.float32(w2[left + n])
                        v = np.float32(w3[left + n])
                        s0[n] += a0 * p + a1 * q + a2 * u + a3 * v
                        s1[n] += b0 * p + b1 * q + b2 * u + b3 * v
                        s2[n] += c0 * p + c1 * q + c2 * u + c3 * v
                        s3[n] += d0 * p + d1 * q + d2 * u + d3 * v
                for i in range(even, bottom):
                    w0 = w[i]
                    for j in range(4):
                        a0 = x[r + j, i]
                        for n in range(width):
                            sums[r + j, n] += a0 * np.float32(w0[left + n])
            for r in range(fours, rows):
                s0 = sums[r]
                for i in range(top, even, 4):
                    w0, w1, w2, w3 = w[i], w[i + 1], w[i + 2], w[i + 3]
                    a0, a1, a2, a3 = x[r, i], x[r, i + 1], x[r, i + 2], x[r, i + 3]
                    for n in range(width):
                        s0[n] += (
                            a0 * np.float32(w0[left + n])
                            + a1 * np.float32(w1[left + n])
                            + a2 * np.float32(w2[left + n])
                            + a3 * np.float32(w3[left + n])
                        )
                for i in range(even, bottom):
                    w0 = w[i]
                    a0 = x[r, i]
                    for n in range(width):
                        s0[n] += a0 * np.float32(w0[left + n])
        for r in range(rows):
            for n in range(width):
                out[r, left + n] += sums[r, n] * scales[left + n]
