"""How well what a graph predicts fits what a model did.

Axes: N features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Fit(NamedTuple):
    """Predicted against measured changes.

    slope: measured over predicted, least squares through 0; r2: of that line, 1 where all is as
    predicted up to a factor; signs: the share of equal signs; n: of changes. Not a number where
    there is none.
    """

    slope: float
    r2: float
    signs: float
    n: int


def fit(predicted: np.ndarray, measured: np.ndarray) -> Fit:
    """A line through 0 of measured changes [N] against predicted ones [N]."""
    p, m = (np.asarray(one, np.float64) for one in (predicted, measured))
    size = float(p @ p)
    if not p.size or not size:
        return Fit(float("nan"), float("nan"), float("nan"), p.size)
    slope = float(p @ m) / size
    left, whole = float(np.square(m - slope * p).sum()), float(np.square(m).sum())
    r2 = 1 - left / whole if whole else float("nan")
    return Fit(slope, r2, float((np.sign(p) == np.sign(m)).mean()), p.size)
