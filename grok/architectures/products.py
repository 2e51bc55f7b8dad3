"""Products of float rows with weights as they are stored, in each of the ways that are known.

Which way is fastest depends on the processor, so `grok.architectures.chosen_ways` measures. All
of them give the same numbers but for the order of sums in float32: "bfloat16" takes rows apart
into values that bfloat16 holds, with nothing left over, and sums their products in float32.

Axes: C rows, K contracting axis, N columns, G groups of K that share a scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.chosen_ways import chosen
from grok.architectures.samples import sample
from grok.architectures.stored_values import (
    Weight,
    eight_bits,
    float_values,
    halves,
    unblocked,
    value_dtype,
)
from grok.architectures.stretches import one, stretch, widened
from grok.checkpoints.block_scales import BlockScaled, MicroScaled, Turned
from grok.checkpoints.tensor_file import QuantizedWeight8bit

HIGHEST = jax.lax.Precision.HIGHEST
F32, BF16 = jnp.float32, jnp.bfloat16
LARGE = 2**20
"""Values of a matrix below which it does not matter how it is multiplied."""
FEW = 4  # rows up to which "sums" is a way, and beyond which "filled" is
MORE = 8  # rows of zeros in "filled"
LONG = 4096  # of K, from which compilers make floats of a matrix for a single row too
TRIED = {
    "int8": (1024, 32768)  # as wide as Grok-1's
}
"""Shapes of matrices that ways are measured with, where they are not square."""
DEPTH, ROWS = 256, 256  # of K, or of N, that are made floats at a time

_TURNED = (((1,), (1,)), ((), ()))  # [C, K] with [N, K]


# --- the product ------------------------------------------------------------------------------


def product(x: jax.Array, w: Weight, dtype: Any = None, rows: int = 0) -> jax.Array:
    """x · w, [..., K] with [K, N] -> [..., N], in the way that was chosen for such.

    Args:
        x: rows.
        w: a matrix, as it is stored.
        dtype: of the product; by default the wider of those of rows and values.
        rows: the way is that of so many, where blocks of several sizes are multiplied alike, so
            that a row's sums do not depend on the size; by default of those that x has.
    """
    if dtype is None:
        dtype = jnp.promote_types(x.dtype, value_dtype(w, x.dtype))
    if not (name := product_way(x, w, rows)):
        return plain(x, w, dtype)
    found = ways_of(kind_of(w))[name](x.reshape(-1, x.shape[-1]), w, jnp.dtype(dtype))
    return found.reshape(*x.shape[:-1], found.shape[-1]).astype(dtype)


def product_way(x: jax.Array, w: Weight, rows: int = 0) -> str:
    """The name of the way in which `product` multiplies such; "" where nothing is chosen: on
    accelerators, where several devices share the work, and of small matrices."""
    kind = kind_of(w)
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    if not (kind and alone and math.prod(w.shape) >= LARGE):
        return ""
    rows, exact = rows or math.prod(x.shape[:-1]), np.dtype(x.dtype).name
    shape, of = TRIED.get(kind, (LONG, LONG)), kind
    if rows == 1 and kind not in TRIED and w.shape[0] < LONG:
        shape, of = (LONG // 2, 2 * LONG), f"{kind}, short"
    return chosen(of, exact, rows, _names(kind, rows), partial(_trials, kind, exact, shape))


def _names(kind: str, rows: int) -> tuple[str, ...]:
    other = "filled" if rows <= FEW else "sums"
    return tuple(name for name in ways_of(kind) if name != other)


def plain(x: jax.Array, w: Weight, dtype: Any) -> jax.Array:
    """All values made floats, and one product, left to the compiler."""
    values = float_values(w, x.dtype).astype(dtype)
    return jnp.dot(x.astype(dtype), values, precision=HIGHEST)


def kind_of(w: Weight) -> str:
    """What is chosen for: "bfloat16", "bfloat16 turned", "int8", "fp8", "mxfp4"; "" for nothing."""
    if isinstance(w, MicroScaled):
        return "mxfp4"
    if isinstance(w, QuantizedWeight8bit):
        return "int8"
    if isinstance(w, Turned) and isinstance(w.values, BlockScaled):
        k, block = w.shape[0], w.values.block[1]
        return "fp8" if k % block == 0 else ""
    values = w.values if isinstance(w, Turned) else w
    if getattr(values, "dtype", None) != BF16:
        return ""
    return "bfloat16 turned" if isinstance(w, Turned) else "bfloat16"


# --- ways -------------------------------------------------------------------------------------
# Each: rows [C, K], a weight, the dtype of the product -> [C, N] float32.


def pieces(x: jax.Array) -> jax.Array:
    """Rows as sums of bfloat16 values, exactly: those of bfloat16 as they are [C, K]; of float32
    the three parts of their bits [3 C, K].

    A single row has zeros beside it [2, K]: for a vector, compilers copy the whole matrix.
    """
    if x.dtype == BF16:
        return x if len(x) > 1 else jnp.concatenate([x, jnp.zeros_like(x)])
    parts, rest = [], x.astype(F32)
    for _ in range(3):
        bits = jax.lax.bitcast_convert_type(rest, jnp.uint32) & jnp.uint32(0xFFFF0000)
        part = jax.lax.bitcast_convert_type(bits, F32)
        parts.append(part.astype(BF16))
        rest = rest - part
    return jnp.concatenate(parts)


def joined(sums: jax.Array, rows: int) -> jax.Array:
    """The products of all parts of the rows added up, the smallest first."""
    if len(sums) < 3 * rows:
        return sums[:rows]
    first, second, third = jnp.split(sums, 3)
    return first + (second + third)


def _dot(x: jax.Array, w: jax.Array, *, turned: bool) -> jax.Array:
    """[C, K] with [K, N], or [N, K] where turned, summed in float32."""
    over = _TURNED if turned else (((1,), (0,)), ((), ()))
    exact = HIGHEST if x.dtype == F32 else None
    return jax.lax.dot_general(x, w, over, precision=exact, preferred_element_type=F32)


def _over_columns(run: Callable[..., jax.Array], arrays: tuple[Any, ...], step: int) -> jax.Array:
    """run(some of each array) -> [C, step], for stretches of the arrays' first axes, which count
    columns, or blocks of them; side by side [C, N]."""
    sizes = [max(1, step * len(a) // len(arrays[0])) for a in arrays]
    whole = len(arrays[0]) // step
    parts = []

    def some(_: None, i: jax.Array) -> tuple[None, jax.Array]:
        return None, run(*(stretch(a, i * n, n) for a, n in zip(arrays, sizes, strict=True)))

    if whole:
        if widened(arrays[0]):
            _, found = jax.lax.scan(some, None, jnp.arange(whole))
        else:  # what lies on several devices stays there
            stretches = tuple(
                a[: whole * n].reshape(whole, n, *a.shape[1:])
                for a, n in zip(arrays, sizes, strict=True)
            )
            _, found = jax.lax.scan(lambda _, own: (None, run(*own)), None, stretches)
        parts.append(jnp.moveaxis(found, 0, 1).reshape(found.shape[1], -1))
    if whole * step < len(arrays[0]):
        parts.append(run(*(a[whole * n :] for a, n in zip(arrays, sizes, strict=True))))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def _over_depth(
    run: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, w: jax.Array, step: int
) -> jax.Array:
    """The sum of run(some of K of the rows, those rows of w) over all of K."""
    whole = x.shape[1] // step
    total = jnp.zeros((len(x), w.shape[1]), F32)
    if whole:
        own = jnp.moveaxis(x[:, : whole * step].reshape(len(x), whole, step), 1, 0)
        if widened(w):
            total = jax.lax.fori_loop(
                0, whole, lambda i, sums: sums + run(one(own, i), stretch(w, i * step, step)), total
            )
        else:
            stretches = (own, w[: whole * step].reshape(whole, step, -1))
            total, _ = jax.lax.scan(lambda sums, s: (sums + run(*s), None), total, stretches)
    if whole * step < x.shape[1]:
        total = total + run(x[:, whole * step :], w[whole * step :])
    return total


def _plain_in_float32(x: jax.Array, w: Weight, dtype: Any) -> jax.Array:
    """As `plain`; for a product of bfloat16 some processors would make a copy of the matrix."""
    values = float_values(w, x.dtype).astype(dtype)
    return jnp.dot(x.astype(dtype).astype(F32), values.astype(F32), precision=HIGHEST)


def _turned_floats(x: jax.Array, w: Turned, dtype: Any) -> jax.Array:
    wide = x.astype(F32)
    return _over_columns(lambda own: _dot(wide, own.astype(F32), turned=True), (w.values,), ROWS)


def _turned_bfloat16(x: jax.Array, w: Turned, dtype: Any) -> jax.Array:
    return joined(_dot(pieces(x), w.values, turned=True), len(x))


def _filled(way: Callable[..., jax.Array], x: jax.Array, w: Weight, dtype: Any) -> jax.Array:
    """A way with some rows of zeros more: of 64 rows a library may take twice the time of 72."""
    return way(jnp.pad(x, ((0, MORE), (0, 0))), w, dtype)[: len(x)]


def _turned_sums(x: jax.Array, w: Turned, dtype: Any) -> jax.Array:
    wide = x.astype(F32)
    return jnp.stack([jnp.sum(row * w.values.astype(F32), axis=1) for row in wide])


def _floats(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
    run = lambda rows, own: _dot(rows, own.astype(F32), turned=False)  # noqa: E731
    return _over_depth(run, x.astype(F32), w, DEPTH)


def _bfloat16(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
    return joined(_dot(pieces(x), w, turned=False), len(x))


def _int8(
    cut: Callable[[jax.Array], jax.Array], held: Any, x: jax.Array, w: Weight, dtype: Any
) -> jax.Array:
    """int8 values are exact in bfloat16; scales are applied to sums, or where the product is
    bfloat16 to the values, which are rounded."""
    groups = w.scales.shape[-2]
    depth = x.shape[1] // groups
    total = jnp.zeros((len(x), w.shape[-1]), F32)
    rounds = jnp.dtype(dtype) == BF16
    for group in range(groups):
        of = slice(group * depth, (group + 1) * depth)
        own = w.scales[group].astype(F32)

        def run(rows: jax.Array, values: jax.Array, own: jax.Array = own) -> jax.Array:
            wide = values.astype(F32)
            if rounds:
                wide = _rounded(wide * own)
            return _dot(rows, wide.astype(held), turned=False)

        sums = joined(_over_depth(run, cut(x[:, of]), w.weight[of], DEPTH), len(x))
        total = total + (sums if rounds else sums * own)
    return total


def _rounded(x: jax.Array) -> jax.Array:
    """The nearest bfloat16 values, as float32, whatever the compiler makes of conversions."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _fp8_floats(x: jax.Array, w: Turned, dtype: Any) -> jax.Array:
    wide, (rows, _) = x.astype(F32), w.values.block

    def run(codes: jax.Array, scales: jax.Array) -> jax.Array:
        return _dot(wide, unblocked(codes, scales, w.values.block), turned=True)

    step = max(1, ROWS // rows) * rows
    if w.values.weight.shape[0] % rows:  # the last block is cut
        return run(w.values.weight, w.values.scales)
    return _over_columns(run, (w.values.weight, w.values.scales), step)


def _fp8_bfloat16(x: jax.Array, w: Turned, dtype: Any) -> jax.Array:
    """8-bit values are exact in bfloat16; a block's scale is applied to its part of the sums."""
    rows, depth = w.values.block
    codes = w.values.weight
    own = jnp.moveaxis(pieces(x).reshape(-1, x.shape[1] // depth, depth), 1, 0)
    of = jnp.moveaxis(codes.reshape(len(codes), -1, depth), 1, 0)
    scales = jnp.repeat(w.values.scales, rows, axis=0)[: len(codes)].T

    def add(sums: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        part = _dot(block[0], eight_bits(block[1]).astype(BF16), turned=True)
        return sums + part * block[2], None

    zero = jnp.zeros((own.shape[1], len(codes)), F32)
    return joined(jax.lax.scan(add, zero, (own, of, scales))[0], len(x))


def _mxfp4(
    cut: Callable[[jax.Array], jax.Array], held: Any, x: jax.Array, w: MicroScaled, dtype: Any
) -> jax.Array:
    """4-bit values with their scales are exact in bfloat16; even and odd K make two products."""
    even, odd = cut(x[:, 0::2]), cut(x[:, 1::2])

    def run(blocks: jax.Array, scales: jax.Array) -> jax.Array:
        low, high = (half.astype(held) for half in halves(blocks, scales))
        return joined(_dot(even, low, turned=True) + _dot(odd, high, turned=True), len(x))

    return _over_columns(run, (w.blocks, w.scales), ROWS)


def _float32(x: jax.Array) -> jax.Array:
    return x.astype(F32)


Way = Callable[[jax.Array, Weight, Any], jax.Array]
WAYS: Mapping[str, Mapping[str, Way]] = {
    "bfloat16 turned": {
        "float32": _turned_floats,
        "bfloat16": _turned_bfloat16,
        "filled": partial(_filled, _turned_bfloat16),
        "sums": _turned_sums,
    },
    "bfloat16": {
        "float32": _floats,
        "bfloat16": _bfloat16,
        "filled": partial(_filled, _bfloat16),
    },
    "int8": {"float32": partial(_int8, _float32, F32), "bfloat16": partial(_int8, pieces, BF16)},
    "fp8": {"float32": _fp8_floats, "bfloat16": _fp8_bfloat16},
    "mxfp4": {"float32": partial(_mxfp4, _float32, F32), "bfloat16": partial(_mxfp4, pieces, BF16)},
}
"""By kind of weight, beside "plain"."""


def ways_of(kind: str) -> dict[str, Way]:
    """The ways of a kind by name, "plain" first."""
    return {"plain": _plain_in_float32, **WAYS.get(kind, {})}


# --- what is measured -------------------------------------------------------------------------


def _trials(
    kind: str, exact: str, shape: tuple[int, int], rows: int
) -> dict[str, Callable[[], object]]:
    """A run of each way, compiled, on matrices that take turns and whose floats no cache holds, so
    that "plain" is as slow as it is on such; of several rows it is not tried: it never was faster.
    """
    stored = sample(kind, *shape)
    own = [jax.tree.map(jnp.array, stored) for _ in range(3)]
    x = jnp.ones((rows, shape[0]), exact)
    dtype = jnp.promote_types(x.dtype, value_dtype(own[0], x.dtype))

    def trial(way: Way) -> Callable[[], object]:
        run = jax.jit(lambda x, w: way(x, w, dtype))
        return lambda: jax.block_until_ready([run(x, w) for w in own])

    tried = [name for name in _names(kind, rows) if name != "plain" or rows == 1]
    return {name: trial(ways_of(kind)[name]) for name in tried}
