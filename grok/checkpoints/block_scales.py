"""Matrices as Hugging Face folders hold them: [out, in], and in 8 or 4 bits whose blocks share a
scale.

They stay so in memory, and become floats, the other way round, in the product that needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

FP4_BLOCK = 32  # values that share a scale
SCALE_BIAS = 127


@dataclass(frozen=True, eq=False)
class BlockScaled:
    """An 8-bit matrix of which every block has a scale.

    Attributes:
        weight: codes of float8_e4m3fn as uint8 [..., K, N]: compilers know bytes better.
        scales: float32 [..., ceil(K / block), ceil(N / block)]; the last blocks may be cut.
        block: (rows, columns) of a block.
    """

    weight: np.ndarray
    scales: np.ndarray
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    @property
    def nbytes(self) -> int:
        return int(self.weight.nbytes + self.scales.nbytes)


@dataclass(frozen=True, eq=False)
class MicroScaled:
    """A 4-bit matrix of which every 32 values of a column have a scale, a power of two.

    Codes 0 to 7 are 0, 0.5, 1, 1.5, 2, 3, 4 and 6; 8 more is the same negative.
    Stored column by column.

    Attributes:
        blocks: uint8 [..., N, K / 32, 16], two values a byte, the low half first.
        scales: uint8 [..., N, K / 32]; values are times 2 to the power of scale - 127.
    """

    blocks: np.ndarray
    scales: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix that it stands for, [..., K, N]."""
        *lead, n, groups, _ = self.blocks.shape
        return (*lead, groups * FP4_BLOCK, n)

    @property
    def nbytes(self) -> int:
        return int(self.blocks.nbytes + self.scales.nbytes)


@dataclass(frozen=True, eq=False)
class Turned:
    """A matrix [..., K, N] that is stored the other way round, and held so.

    Attributes:
        values: [..., N, K], an array or `BlockScaled`.
    """

    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix that it stands for, [..., K, N]."""
        *lead, n, k = self.values.shape
        return (*lead, k, n)

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)
