"""Figures as a page shows them: how they look, and apart from it their rows.

A browser builds a figure anew when its specification changes, which takes it tens of
milliseconds; where only rows change it moves the marks there are. So rows go beside the
specification, as Arrow tables under names that say no more than their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import pyarrow as pa

from lens.figures import theme


class OnPage(NamedTuple):
    """A figure for a page.

    Attributes:
        spec: Vega-Lite without title, description and rows.
        rows: Arrow streams of the rows, by the names that `spec` has for them.
    """

    spec: dict[str, Any]
    rows: dict[str, bytes]


def on_page(
    chart: alt.TopLevelMixin, *, dark: bool = False, stretch: bool = False, scale: float = 1.0
) -> OnPage:
    """A figure in the page's colours, whose title and description the page itself writes.

    Args:
        chart: the figure.
        dark: the page's background.
        stretch: it takes the width there is; cells then get as wide as that allows.
        scale: makes the cells of a heatmap smaller.
    """
    spec = chart.to_dict(validate=False)
    named = spec.pop("datasets", {})
    names = {name: f"rows{place}" for place, name in enumerate(named)}
    _rename(spec, names)
    rows = {names[name]: arrow_stream(values) for name, values in named.items()}
    for written in ("title", "description"):
        spec.pop(written, None)
    spec["padding"] = {"left": 0, "right": 4, "top": 5, "bottom": 4}
    spec["config"] = {**spec.get("config", {}), **theme.look(dark)}
    # Streamlit would fit titles, axes and legends into the height of the plot.
    spec["autosize"] = {"type": "fit-x" if stretch else "pad", "contains": "padding"}
    for side in ("width", "height"):
        step = spec.get(side)
        if isinstance(step, dict) and "step" in step:
            spec[side] = {"step": max(3, round(step["step"] * scale))}
            if stretch and side == "width":
                del spec[side]
    return OnPage(spec, rows)


def arrow_stream(rows: Sequence[dict[str, object]]) -> bytes:
    """Rows that all have the same fields as an Arrow stream."""
    names = list(rows[0]) if rows else []
    table = pa.table({name: [row[name] for row in rows] for name in names})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _rename(part: Any, names: dict[str, str]) -> None:
    """Names of data, wherever in a specification they stand, as in `names`."""
    if isinstance(part, dict):
        data = part.get("data")
        if isinstance(data, dict) and data.get("name") in names:
            part["data"] = {**data, "name": names[data["name"]]}
        for inner in part.values():
            _rename(inner, names)
    elif isinstance(part, list):
        for inner in part:
            _rename(inner, names)
