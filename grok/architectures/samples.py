"""Matrices of random values in each stored form, to measure and to test products with."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from grok.checkpoints.block_scales import FP4_BLOCK, BlockScaled, MicroScaled, Turned
from grok.checkpoints.tensor_file import QuantizedWeight8bit

BF16 = ml_dtypes.bfloat16


def sample(kind: str, k: int = 2048, n: int = 2048, seed: int = 0) -> Any:
    """A matrix [k, n] of a kind with random values, on the host."""
    rng = np.random.default_rng(seed)
    if kind == "int8":
        scales = rng.uniform(0.5, 1.5, (1, n)).astype(BF16)
        return QuantizedWeight8bit(rng.integers(-127, 128, (k, n), np.int8), scales)
    if kind == "fp8":
        codes = rng.integers(0, 256, (n, k), np.uint8)
        codes[(codes & 0x7F) == 0x7F] = 0
        scales = rng.uniform(0.5, 1.5, (-(-n // 128), k // 128)).astype(np.float32)
        return Turned(BlockScaled(codes, scales, (128, 128)))
    if kind == "mxfp4":
        blocks = rng.integers(0, 256, (n, k // FP4_BLOCK, FP4_BLOCK // 2), np.uint8)
        return MicroScaled(blocks, rng.integers(118, 124, blocks.shape[:-1], np.uint8))
    values = rng.standard_normal((n, k), np.float32).astype(BF16)
    return Turned(values) if kind == "bfloat16 turned" else np.ascontiguousarray(values.T)
