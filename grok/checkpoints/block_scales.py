"""Matrices in 8 or 4 bits whose blocks share a scale, as Hugging Face folders hold them.

They stay so in memory and become floats in the product that needs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Of the codes 0 to 7; 8 more is the same negative."""
FP4_BLOCK = 32  # values that share a scale
SCALE_BIAS = 127


@dataclass(frozen=True, eq=False)
class BlockScaled:
    """An 8-bit matrix of which every block has a scale.

    Attributes:
        weight: float8_e4m3fn [..., K, N].
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
