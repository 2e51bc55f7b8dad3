"""A figure of what a router's logit is the sum of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.recipe.steps import remembered
from lens.words import fixed


@remembered
def account_waterfall(
    names: Sequence[str],
    given: Float[np.ndarray, " term"],
    kinds: Sequence[str],
    *,
    title: str,
    total: str,
) -> alt.LayerChart:
    """Terms of a logit as steps from 0: each bar begins where the one above it ends.

    Args:
        names: of the terms, the first at the top; all different.
        given: what each adds, in logits.
        kinds: "feature" for those that are drawn in colour, "error" for what is marked as missed,
            anything else for grey.
        title: of the figure.
        total: name of the last bar, which begins at 0 and ends at their sum.
    """
    data, edges = _steps(names, np.asarray(given, dtype=float), kinds, total)
    axis = alt.Axis(tickCount=8)
    x = {
        field: alt.X(f"{field}:Q", title="logits", axis=axis)
        for field in ("start", "right", "value")
    }
    base = marks.chart(data, y=marks.ranked_y())
    tips: list[marks.Tip] = [
        ("name:N", "term"),
        ("value:Q", "adds", "+.4f"),
        ("end:Q", "up to here", ".4f"),
    ]
    bars = base.mark_bar().encode(
        x=x["start"],
        x2=alt.X2("end:Q"),
        color=alt.Color("shade:N", scale=None, legend=None),
        tooltip=marks.tooltip(*tips),
    )
    numbers = base.mark_text(align="left", dx=4, fontSize=10, tooltip=None).encode(
        x=x["right"], text="shown:N"
    )
    zero = marks.dashed_rule({"value": [0.0]}, silent=True, x=x["value"])
    return marks.plot_figure(
        [zero, marks.read_aloud(bars, tips), numbers, marks.room({"value": edges}, x=x["value"])],
        (520, alt.Step(20)),
        theme.title(
            title,
            "each bar begins where the one above ends; blue: features that raise it, orange: that "
            "lower it, purple: what the dictionary misses, grey: all else",
            width=520,
        ),
        theme.alt_description(
            f"{title}: "
            + ", ".join(
                f"{name} {shown}" for name, shown in zip(data["name"], data["shown"], strict=True)
            )
        ),
    )


def _steps(
    names: Sequence[str], steps: np.ndarray, kinds: Sequence[str], total: str
) -> tuple[dict[str, Any], list[float]]:
    """Columns of the bars, and the ends that the axis makes room for."""
    ends = np.cumsum(steps)
    start, end = np.append(ends - steps, 0.0), np.append(ends, ends[-1:].sum())
    value = np.append(steps, end[-1])
    low, high = float(min(start.min(), end.min())), float(max(start.max(), end.max()))
    shades = [_shade(kind, step) for kind, step in zip(kinds, steps, strict=True)]
    columns = {
        "rank": np.arange(len(names) + 1),
        "name": [*names, total],
        "start": start,
        "end": end,
        "right": np.maximum(start, end),
        "value": value,
        "shown": [fixed(float(v), 2, sign=True) for v in value],
        "shade": [*shades, theme.MID_GREY],
    }
    room = high - low or 1.0
    return columns, [low - 0.02 * room, high + 0.16 * room]


def _shade(kind: str, step: float) -> str:
    if kind == "feature":
        return theme.BLUE if step >= 0 else theme.ORANGE
    return theme.OKABE_ITO[6] if kind == "error" else theme.BAND_GREY
