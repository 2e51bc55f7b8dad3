"""The inner loops of the products.

For many rows: four of them times one tile of columns, sums kept in registers. For a few, which
leave the processor waiting for memory: a walk along the columns of eight rows of weights, in the
order in which memory gives them up fastest, sums in the nearest cache.

Written as vector instructions of LLVM, through numba, so they are compiled for the processor at
hand and need no compiler on the machine. Loops in plain numba come to a quarter of this speed: the
compiler reloads the sums at every step, and gives up on vectors where several arrays may overlap.
Libraries take floats, so for them the weights have to be widened into memory first, which moves
four times their bytes again.

All functions take addresses; `ld…` are distances of rows in elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES = llvmlite.binding.get_host_cpu_features()
# Values of one vector, and vectors side by side in a tile: four rows of sums, the weights and one
# value of x have to fit the registers (32 of 512 bits, 16 of 256, or 32 of 128).
LANES, ACROSS = (16, 4) if _FEATURES.get("avx512f") else (8, 2) if _FEATURES.get("avx") else (4, 4)
WIDTH = LANES * ACROSS
"""Columns of a tile."""
DEEP = 8
"""Rows of weights that few rows of x are multiplied with in one walk along the columns."""
STEP = 4 * LANES
"""Columns of one step of such a walk."""

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _BYTES, _INTS = (ir.VectorType(kind, LANES) for kind in (_F32, _I8, _I32))


def _load(b: Any, base: Any, offset: Any, kind: Any) -> Any:
    """A vector that need not be aligned."""
    pointer = b.bitcast(b.gep(base, [offset]), kind.as_pointer())
    loaded = b.load(pointer)
    loaded.align = kind.element.width // 8 if kind is _BYTES else 4
    return loaded


def _store(b: Any, value: Any, base: Any, offset: Any) -> None:
    stored = b.store(value, b.bitcast(b.gep(base, [offset]), _FLOATS.as_pointer()))
    stored.align = 4


def _splat(b: Any, value: Any) -> Any:
    nothing = ir.Constant(_FLOATS, ir.Undefined)
    one = b.insert_element(nothing, value, _I32(0))
    return b.shuffle_vector(one, nothing, ir.Constant(_INTS, [0] * LANES))


def _constant(value: int) -> Any:
    return ir.Constant(_INTS, [value] * LANES)


def _adding(rows: int, across: int, source: Any) -> Any:
    """sums [rows, across * LANES] += x [rows, k] @ w [k, across * LANES], w int8 or float32."""

    @intrinsic
    def add(
        typing: Any, x: Any, ldx: Any, w: Any, ldw: Any, sums: Any, lds: Any, k: Any
    ) -> tuple[Any, Callable[..., Any]]:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            x_at, x_row, w_at, w_row, s_at, s_row, depth = args
            x_base = b.inttoptr(x_at, _F32.as_pointer())
            w_base = b.inttoptr(w_at, source.as_pointer())
            s_base = b.inttoptr(s_at, _F32.as_pointer())
            places = [
                b.add(b.mul(s_row, _I64(r)), _I64(v * LANES))
                for r in range(rows)
                for v in range(across)
            ]
            before = [_load(b, s_base, at, _FLOATS) for at in places]
            fma = _fma(b)
            entry = b.block
            head, body, end = (b.append_basic_block(name) for name in ("head", "body", "end"))
            b.branch(head)
            b.position_at_end(head)
            i = b.phi(_I64)
            i.add_incoming(_I64(0), entry)
            held = []
            for value in before:
                phi = b.phi(_FLOATS)
                phi.add_incoming(value, entry)
                held.append(phi)
            b.cbranch(b.icmp_signed("<", i, depth), body, end)
            b.position_at_end(body)
            row = b.mul(i, w_row)
            weights = []
            for v in range(across):
                at = b.add(row, _I64(v * LANES))
                if source is _I8:
                    small = _load(b, w_base, at, _BYTES)
                    weights.append(b.sitofp(b.sext(small, _INTS), _FLOATS))
                else:
                    weights.append(_load(b, w_base, at, _FLOATS))
            after = []
            for r in range(rows):
                value = b.load(b.gep(x_base, [b.add(b.mul(x_row, _I64(r)), i)]))
                same = _splat(b, value)
                after += [
                    b.call(fma, [same, weights[v], held[r * across + v]]) for v in range(across)
                ]
            i.add_incoming(b.add(i, _I64(1)), b.block)
            for phi, value in zip(held, after, strict=True):
                phi.add_incoming(value, b.block)
            b.branch(head)
            b.position_at_end(end)
            for phi, at in zip(held, places, strict=True):
                _store(b, phi, s_base, at)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), code

    return add


def _walking(rows: int, depth: int, rounded: bool) -> Any:
    """sums [rows, columns] += x [rows, depth] @ w [depth, columns] of int8; when rounded, w times
    scales [columns] rounded to bfloat16. Columns are a multiple of STEP."""

    # many parameters: the typing context, then those of the machine code.
    @intrinsic
    def add(
        typing: Any, x: Any, ldx: Any, w: Any, ldw: Any, scales: Any, sums: Any, lds: Any, n: Any
    ) -> tuple[Any, Callable[..., Any]]:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            x_at, x_row, w_at, w_row, scales_at, s_at, s_row, columns = args
            x_base = b.inttoptr(x_at, _F32.as_pointer())
            w_base = b.inttoptr(w_at, _I8.as_pointer())
            s_base = b.inttoptr(s_at, _F32.as_pointer())
            scales_base = b.inttoptr(scales_at, _F32.as_pointer())
            fma = _fma(b)
            same = [
                [
                    _splat(b, b.load(b.gep(x_base, [b.add(b.mul(x_row, _I64(r)), _I64(i))])))
                    for i in range(depth)
                ]
                for r in range(rows)
            ]
            w_rows = [b.mul(w_row, _I64(i)) for i in range(depth)]
            s_rows = [b.mul(s_row, _I64(r)) for r in range(rows)]
            steps = b.sdiv(columns, _I64(STEP))
            with cgutils.for_range(b, steps, intp=_I64) as loop:
                for part in range(0, STEP, LANES):
                    at = b.add(b.mul(loop.index, _I64(STEP)), _I64(part))
                    held = [_load(b, s_base, b.add(row, at), _FLOATS) for row in s_rows]
                    own = _load(b, scales_base, at, _FLOATS) if rounded else None
                    for i in range(depth):
                        small = _load(b, w_base, b.add(w_rows[i], at), _BYTES)
                        value = b.sitofp(b.sext(small, _INTS), _FLOATS)
                        if rounded:
                            value = _to_bfloat16(b, b.fmul(value, own))
                        held = [b.call(fma, [same[r][i], value, held[r]]) for r in range(rows)]
                    for row, value in zip(s_rows, held, strict=True):
                        _store(b, value, s_base, b.add(row, at))
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), code

    return add


def _fma(b: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    return cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{LANES}f32")


@intrinsic
def widened(
    typing: Any, w: Any, ldw: Any, scales: Any, tile: Any, k: Any
) -> tuple[Any, Callable[..., Any]]:
    """tile [k, WIDTH] = w [k, WIDTH] times scales [WIDTH], rounded to bfloat16, as float32."""

    def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
        w_at, w_row, scales_at, tile_at, depth = args
        w_base = b.inttoptr(w_at, _I8.as_pointer())
        scales_base = b.inttoptr(scales_at, _F32.as_pointer())
        tile_base = b.inttoptr(tile_at, _F32.as_pointer())
        own = [_load(b, scales_base, _I64(v * LANES), _FLOATS) for v in range(ACROSS)]
        with cgutils.for_range(b, depth, intp=_I64) as loop:
            for v in range(ACROSS):
                at = b.add(b.mul(loop.index, w_row), _I64(v * LANES))
                small = _load(b, w_base, at, _BYTES)
                value = b.fmul(b.sitofp(b.sext(small, _INTS), _FLOATS), own[v])
                place = b.add(b.mul(loop.index, _I64(WIDTH)), _I64(v * LANES))
                _store(b, _to_bfloat16(b, value), tile_base, place)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), code


def _to_bfloat16(b: Any, value: Any) -> Any:
    """The nearest bfloat16, ties to even."""
    bits = b.bitcast(value, _INTS)
    even = b.and_(b.lshr(bits, _constant(16)), _constant(1))
    moved = b.add(b.add(bits, _constant(0x7FFF)), even)
    return b.bitcast(b.and_(moved, _constant(-0x10000)), _FLOATS)


add_int8_1, add_int8_2, add_int8_3, add_int8_4 = (
    _adding(rows, ACROSS, _I8) for rows in (1, 2, 3, 4)
)
add_float_1, add_float_2, add_float_3, add_float_4 = (
    _adding(rows, ACROSS, _F32) for rows in (1, 2, 3, 4)
)
walk_1, walk_2, walk_3, walk_4 = (_walking(rows, DEEP, False) for rows in (1, 2, 3, 4))
rounded_walk_1, rounded_walk_2, rounded_walk_3, rounded_walk_4 = (
    _walking(rows, DEEP, True) for rows in (1, 2, 3, 4)
)
