"""What checks of predicted flips say, for features and for random directions beside them.

Axes: N directions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class Check(Protocol):
    """Predicted and measured doses of flips; the runner's checks have it."""

    @property
    def predicted(self) -> np.ndarray: ...
    @property
    def measured(self) -> np.ndarray: ...
    @property
    def is_random(self) -> np.ndarray: ...
    @property
    def agrees(self) -> np.ndarray: ...


class Agreement(NamedTuple):
    """How many flips came as predicted.

    checked, agreed: of features; random_checked, random_agreed: of random directions; worst: the
    largest relative difference of a measured dose, of both; nan where none was measured.
    """

    checked: int
    agreed: int
    random_checked: int
    random_agreed: int
    worst: float


def agreement(check: Check) -> Agreement:
    """Counts of a check."""
    own = ~check.is_random
    there = np.isfinite(check.measured)
    off = np.abs(check.measured[there] / check.predicted[there] - 1)
    return Agreement(
        int(own.sum()),
        int(check.agrees[own].sum()),
        int(check.is_random.sum()),
        int(check.agrees[check.is_random].sum()),
        float(off.max()) if off.size else float("nan"),
    )
