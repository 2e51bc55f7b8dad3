"""Products of a few float rows with int8 weights, without a float copy of the weights.

Axes: C rows, K contracting axis, N columns.

Neither weights nor rows are quantized further; sums are float32. Hand-written loops ("vectors")
widen weights in registers, or where the scaled values have to be rounded as the compiled model
rounds them, for more than a few rows, a tile at a time; they are in `grok.streaming.simd_kernels`.
Processors with bfloat16 units are faster with compiled products over blocks of rows
(`grok.architectures.products`): which of them is taken is measured, by number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.chosen_ways import chosen
from grok.architectures.products import LARGE, WAYS
from grok.architectures.samples import sample
from grok.checkpoints.tensor_file import QuantizedWeight8bit
from grok.engine.compiled import AS_WRITTEN
from grok.engine.sharding import processors
from grok.streaming.kept_code import compiled
from grok.streaming.simd_kernels import (
    DEEP,
    STEP,
    WIDTH,
    add_float_1,
    add_float_2,
    add_float_3,
    add_float_4,
    add_int8_1,
    add_int8_2,
    add_int8_3,
    add_int8_4,
    rounded_walk_1,
    rounded_walk_2,
    rounded_walk_3,
    rounded_walk_4,
    walk_1,
    walk_2,
    walk_3,
    walk_4,
    widened,
)

DEPTH = 128  # rows of weights that are rounded together
FEW_ROWS = 4  # up to this many rows wait for memory more than they compute
SPAN = 16384  # columns of one walk of those; their sums stay in the nearer caches
VECTORS = "vectors"
NAMES = (VECTORS, *WAYS["int8"])


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(processors(), thread_name_prefix="products")


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
            activations and scales are bfloat16; rows are bfloat16 values then. Otherwise the scale
            is applied to the sums.
    """
    if w.dtype != np.int8:
        out += x @ w.astype(np.float32)
        return
    assert scales is not None
    product_by(int8_way(w, len(x), rounded), out, x, w, scales, rounded)


def int8_way(w: np.ndarray, rows: int, rounded: bool) -> str:
    """The name of the way in which `add_product` multiplies so many rows with such weights."""
    if w.size < LARGE:
        return VECTORS
    exact = "bfloat16" if rounded else "float32"
    return chosen("int8 from disk", exact, rows, NAMES, partial(_trials, rounded))


def product_by(
    name: str, out: np.ndarray, x: np.ndarray, w: np.ndarray, scales: np.ndarray, rounded: bool
) -> None:
    """`add_product` of int8 weights in one of the ways `NAMES`."""
    if name == VECTORS:
        _by_vectors(out, x, w, scales, rounded)
        return
    filled = np.zeros((1 << (len(x) - 1).bit_length(), x.shape[1]), np.float32)
    filled[: len(x)] = x  # few shapes are compiled
    out += np.asarray(_by_blocks(name, rounded, filled, w, scales))[: len(x)]


@partial(jax.jit, static_argnums=(0, 1), compiler_options=AS_WRITTEN)
def _by_blocks(
    name: str, rounded: bool, x: jax.Array, w: jax.Array, scales: jax.Array
) -> jax.Array:
    dtype = jnp.bfloat16 if rounded else jnp.float32
    weight = QuantizedWeight8bit(w, scales[None])  # type: ignore[arg-type]
    return WAYS["int8"][name](x.astype(dtype), weight, dtype)


def _trials(rounded: bool, rows: int) -> dict[str, Callable[[], object]]:
    """A run of each way, on matrices larger than the nearer caches."""
    own = sample("int8", 2048, 8192)
    scales = own.scales[0].astype(np.float32)
    x, out = np.ones((rows, 2048), np.float32), np.zeros((rows, 8192), np.float32)
    return {name: partial(product_by, name, out, x, own.weight, scales, rounded) for name in NAMES}


def _by_vectors(
    out: np.ndarray, x: np.ndarray, w: np.ndarray, scales: np.ndarray, rounded: bool
) -> None:
    x, scales = np.ascontiguousarray(x), np.ascontiguousarray(scales)
    few = len(x) <= FEW_ROWS and x.shape[1] % DEEP == 0
    cuts = _cuts(w.shape[1], processors())
    work = [
        _pool().submit(_part, x, w, scales, out, first, last, rounded, few)
        for first, last in zip(cuts, cuts[1:], strict=False)
    ]
    wait(work)
    for one in work:
        one.result()


def _cuts(columns: int, parts: int) -> list[int]:
    """Where the columns are cut: all parts but the last are whole steps."""
    step = max(STEP, -(-columns // (parts * STEP)) * STEP)
    return [*range(0, columns, step), columns]


def _part(
    x: np.ndarray,
    w: np.ndarray,
    scales: np.ndarray,
    out: np.ndarray,
    first: int,
    last: int,
    rounded: bool,
    few: bool,
) -> None:
    """Columns `first` to `last` of the product. The compiled functions know arrays by address
    alone, so all memory that they use is held here."""
    rows = len(x)
    if few:
        whole = first + (last - first) // STEP * STEP
        sums = np.zeros((rows, min(SPAN, max(whole - first, STEP))), np.float32)
        _walks(x, w, scales, out, sums, first, whole, rounded)
        first = whole
    if first < last:
        tile, rest = np.empty((DEPTH, WIDTH), np.float32), np.empty((DEPTH, WIDTH), np.int8)
        sums, own = np.empty((rows, WIDTH), np.float32), np.ones(WIDTH, np.float32)
        _tiles(x, w, scales, out, sums, tile, rest, own, first, last, rounded)


@compiled(nogil=True, boundscheck=False)
def _walks(
    x: np.ndarray,
    w: np.ndarray,
    scales: np.ndarray,
    out: np.ndarray,
    sums: np.ndarray,
    first: int,
    last: int,
    rounded: bool,
) -> None:
    """One to four rows, columns `first` to `last`, whole steps; K is a multiple of DEEP."""
    rows, depth = x.shape
    columns, span = w.shape[1], sums.shape[1]
    x_at, w_at, scales_at, sums_at = (
        x.ctypes.data,
        w.ctypes.data,
        scales.ctypes.data,
        sums.ctypes.data,
    )
    for left in range(first, last, span):
        width = min(span, last - left)
        sums[:] = 0
        for i in range(0, depth, DEEP):
            own, at, by = x_at + 4 * i, w_at + i * columns + left, scales_at + 4 * left
            if rounded:
                if rows == 1:
                    rounded_walk_1(own, depth, at, columns, by, sums_at, span, width)
                elif rows == 2:
                    rounded_walk_2(own, depth, at, columns, by, sums_at, span, width)
                elif rows == 3:
                    rounded_walk_3(own, depth, at, columns, by, sums_at, span, width)
                else:
                    rounded_walk_4(own, depth, at, columns, by, sums_at, span, width)
            elif rows == 1:
                walk_1(own, depth, at, columns, by, sums_at, span, width)
            elif rows == 2:
                walk_2(own, depth, at, columns, by, sums_at, span, width)
            elif rows == 3:
                walk_3(own, depth, at, columns, by, sums_at, span, width)
            else:
                walk_4(own, depth, at, columns, by, sums_at, span, width)
        for r in range(rows):
            for n in range(width):
                out[r, left + n] += sums[r, n] if rounded else sums[r, n] * scales[left + n]


# many parameters: a compiled loop takes arrays and numbers, no objects.
@compiled(nogil=True, boundscheck=False)
def _tiles(
    x: np.ndarray,
    w: np.ndarray,
    scales: np.ndarray,
    out: np.ndarray,
    sums: np.ndarray,
    tile: np.ndarray,
    rest: np.ndarray,
    own: np.ndarray,
    first: int,
    last: int,
    rounded: bool,
) -> None:
    """Any number of rows, columns `first` to `last`, one tile of columns after the other."""
    rows, depth = x.shape
    columns = w.shape[1]
    x_at, w_at, own_at = x.ctypes.data, w.ctypes.data, own.ctypes.data
    sums_at, tile_at, rest_at = sums.ctypes.data, tile.ctypes.data, rest.ctypes.data
    for left in range(first, last, WIDTH):
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
            if rounded:
                widened(at, stride, own_at, tile_at, k)  # type: ignore[call-arg]
            for r in range(0, rows, 4):
                several = min(4, rows - r)
                x_own, sums_own = x_at + 4 * (r * depth + top), sums_at + 4 * r * WIDTH
                if rounded:
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
        for r in range(rows):
            for n in range(width):
                out[r, left + n] += sums[r, n] if rounded else sums[r, n] * scales[left + n]
