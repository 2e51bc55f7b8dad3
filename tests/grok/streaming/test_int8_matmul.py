"""Products with int8 weights against numpy's of the same values in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from grok.streaming import int8_matmul as products
from grok.streaming.int8_matmul import add_product
from grok.streaming.simd_kernels import DEEP, STEP, WIDTH

# Rows of each loop and the one between; shapes that fill tiles, overlap them, or fill none.
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 17, 64)
SHAPES = (
    (DEEP, STEP),
    (8 * DEEP, 3 * STEP + 1),
    (43, 128),
    (130, WIDTH),
    (300, 513),
    (7, 1),
    (2 * products.DEPTH, 2 * WIDTH - 1),
)
FLOAT32 = 3e-6


def given(rows: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([rows, *shape])
    w = rng.integers(-128, 128, shape, dtype=np.int8)
    scales = rng.uniform(0.001, 0.01, shape[1]).astype(np.float32)
    return rng.standard_normal((rows, shape[0])).astype(np.float32), w, scales


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", ROWS)
def test_a_product_is_added_to_what_is_there(
    rows: int, shape: tuple[int, int], rounded: bool
) -> None:
    x, w, scales = given(rows, shape)
    before = np.random.default_rng(1).standard_normal((rows, shape[1])).astype(np.float32)
    values = w.astype(np.float32) * scales
    if rounded:
        values = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    out = before.copy()
    add_product(out, x, w, scales, rounded=rounded)
    wanted = before.astype(np.float64) + x.astype(np.float64) @ values.astype(np.float64)
    assert error(out, wanted) < FLOAT32


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("name", products.NAMES)
def test_every_way_adds_the_same_product(name: str, rounded: bool) -> None:
    x, w, scales = given(5, (300, 90))
    if rounded:
        x = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    values = w.astype(np.float32) * scales
    if rounded:
        values = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    out = np.ones((5, 90), np.float32)
    products.product_by(name, out, x, w, scales, rounded)
    assert error(out, 1 + x.astype(np.float64) @ values.astype(np.float64)) < FLOAT32


def test_rounding_is_to_the_nearest_bfloat16_and_ties_go_to_even() -> None:
    w = np.repeat(np.arange(-128, 128, dtype=np.int8)[None], DEEP, 0)
    scales = np.random.default_rng(0).integers(1, 256, 256).astype(np.float32) * 2.0**-8
    exact = w[0].astype(np.float32) * scales
    ties = (exact.view(np.uint32) & 0xFFFF) == 0x8000
    assert ties.sum() > 3
    x = np.zeros((1, DEEP), np.float32)
    x[0, 5] = 1
    for rows in (1, 6):
        out = np.zeros((rows, 256), np.float32)
        add_product(out, np.repeat(x, rows, 0), w, scales, rounded=True)
        assert (out == exact.astype(ml_dtypes.bfloat16).astype(np.float32)).all()


def test_the_scale_is_applied_to_the_sum_so_integers_add_up_without_error() -> None:
    w = np.random.default_rng(0).integers(-128, 128, (512, 300), dtype=np.int8)
    x = np.random.default_rng(1).integers(-8, 9, (3, 512)).astype(np.float32)
    scales = np.full(300, 2.0**-6, np.float32)
    out = np.zeros((3, 300), np.float32)
    add_product(out, x, w, scales)
    assert (out == (x.astype(np.int64) @ w.astype(np.int64)) * 2.0**-6).all()


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_memory_around_the_result_and_the_weights_stays_as_it_was(rows: int) -> None:
    x, _, scales = given(rows, (64, 100))
    around = np.full((rows + 2) * 100 + 64, 7.0, np.float32)
    out = around[100 + 32 : 100 + 32 + rows * 100].reshape(rows, 100)
    whole = np.random.default_rng(0).integers(-128, 128, 64 * 100 + 3, dtype=np.int8)
    copy = whole.copy()
    w = whole[1 : 1 + 64 * 100].reshape(64, 100)  # not aligned, as in a read buffer
    out[:] = 0
    for rounded in (False, True):
        add_product(out, x, w, scales, rounded=rounded)
    assert (around[: 100 + 32] == 7).all() and (around[100 + 32 + rows * 100 :] == 7).all()
    assert (whole == copy).all()
    assert np.isfinite(out).all() and (out != 0).any()


def test_a_slice_of_rows_and_float_weights_are_taken_as_they_are() -> None:
    x, w, scales = given(5, (40, 90))
    wide = np.concatenate([np.ones((5, 3), np.float32), x], axis=1)
    out = np.zeros((5, 90), np.float32)
    add_product(out, wide[:, 3:], w, scales)
    floats = np.zeros((5, 90), np.float32)
    add_product(floats, x, w.astype(np.float32) * scales, None)
    assert error(out, floats) < FLOAT32


@pytest.mark.parametrize("name", ["_walks", "_tiles"])
def test_what_is_known_by_its_address_is_held_by_the_caller(name: str) -> None:
    """numba gives an array back after its last visible use; an address is none."""
    code = getattr(products, name).py_func.__code__
    assert "ctypes" in code.co_names
    assert not {"empty", "zeros", "ones", "full"} & set(code.co_names)
