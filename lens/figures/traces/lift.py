"""Lift on cells: how much more often something is chosen than expected; 1 is chance.

Colours run over its base-2 logarithm, from a quarter to four times as often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from lens.figures import marks, theme

SCALE = theme.diverging((-2, 2), 0.0)
AS_FACTOR = "'× ' + format(pow(2, datum.value), '.3~g')"
LEVEL = 0.05


def log_lift(lift: np.ndarray) -> np.ndarray:
    """Base-2 logarithm of lift, at most 2 and at least -2."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.log2(lift), -2, 2))


def lift_columns(lift: np.ndarray) -> dict[str, np.ndarray]:
    """Data of cells: lift, its logarithm, and the colour of digits on it."""
    logs = log_lift(lift)
    return {"lift": lift, "log2": logs, "ink": theme.ink(logs, SCALE)}


def rare(q: np.ndarray) -> np.ndarray:
    """Cells whose q, where it is known, is at most 0.05."""
    return np.asarray(np.nan_to_num(q, nan=1) <= LEVEL)


def lift_layers(
    base: alt.Chart,
    tips: Sequence[marks.Tip],
    fields: tuple[str, str],
    step: float,
    outlined: dict[str, Any],
) -> list[alt.Chart]:
    """Cells coloured by lift, with digits where there is room, some of them outlined.

    Args:
        base: position of the cells: fields "a" and "b".
        tips: lines of the tooltip.
        fields: what a click picks.
        step: side of a cell in pixels.
        outlined: cells to outline; may be empty.
    """
    legend = alt.Legend(values=[-2, -1, 0, 1, 2], labelExpr=AS_FACTOR)
    colour = alt.Color("log2:Q", title="lift", scale=SCALE, legend=legend)
    layers = [marks.cells(base, colour, tips, *fields)]
    layers += marks.cell_digits(base.transform_filter("datum.lift !== null"), step, "lift")
    if len(outlined.get("a", ())):
        layers += marks.outlined(base, outlined, step, chosen=False)
    return layers
