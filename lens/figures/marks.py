"""Pieces that figures are put together from: axes, cells, rules, rings, tooltips, and the whole.

A mark takes its rows from columns of equal length and its encodings from Altair's channels.
What several figures draw in the same way stands here once, so that it looks the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from lens.figures import theme

Pair = tuple[np.ndarray, np.ndarray]
# A field with its type ("value:Q"), then its title (the field where empty) and its format.
Tip = tuple[str] | tuple[str, str] | tuple[str, str, str]

UNSET = alt.Undefined
CHOSEN = "chosen"
"""Description of a mark around what a reader clicked; files leave it out unless asked."""
Q_TIP: Tip = ("q:Q", "q (Benjamini–Hochberg)", ".2g")


def chart(columns: theme.Columns, **encoding: Any) -> alt.Chart:
    """Columns as a chart without a mark, in these encodings."""
    return alt.Chart(theme.embed(columns)).encode(**encoding)


def tooltip(*tips: Tip) -> list[alt.Tooltip]:
    """The lines of a tooltip."""
    lines = []
    for field, *rest in tips:
        title, form = (*rest, "", "")[:2]
        lines.append(alt.Tooltip(field, title=title or UNSET, format=form or UNSET))
    return lines


def pick(*fields: str) -> alt.Parameter:
    """The selection "pick": the values of these fields where the reader clicked."""
    return alt.selection_point(name="pick", fields=list(fields), empty=False)


class Layers(alt.LayerChart):
    """Charts drawn over each other, the first at the bottom.

    Altair's own class copies all layers several times, and does so again for every dictionary that
    is made of it, to look for selections and data that layers share. Those here share none.
    """

    def __init__(self, data: Any = UNSET, layer: Sequence[alt.Chart] = (), **kwargs: Any) -> None:
        super(alt.LayerChart, self).__init__(data=data, layer=list(layer), **kwargs)


def layered(*layers: alt.Chart) -> alt.LayerChart:
    """Charts drawn over each other, the first at the bottom."""
    return Layers(layer=layers)


def cell_figure(
    layers: Sequence[alt.Chart],
    steps: tuple[float, float],
    title: alt.TitleParams,
    description: str,
) -> alt.LayerChart:
    """A figure of cells of a fixed size.

    Args:
        layers: the cells and what lies on them, the lowest first.
        steps: width and height of a cell in pixels.
        title: with its second lines.
        description: alternative text.
    """
    return Layers(
        layer=layers,
        width=alt.Step(steps[0]),
        height=alt.Step(steps[1]),
        autosize=theme.NATURAL,
        title=title,
        description=description,
    )


def plot_figure(
    layers: Sequence[alt.Chart],
    size: tuple[float | alt.Step, float | alt.Step],
    title: alt.TitleParams,
    description: str,
    *,
    flexible: bool = True,
    frame: bool = True,
) -> alt.LayerChart:
    """A figure with axes of a fixed length.

    Args:
        layers: the marks, the lowest first.
        size: width and height of the plot in pixels.
        title: with its second lines.
        description: alternative text.
        flexible: the size is that of plot, axes and legends together, and a page may stretch it.
        frame: a line around the plot, where there is one.
    """
    return Layers(
        layer=layers,
        width=size[0],
        height=size[1],
        autosize=theme.FLEXIBLE if flexible else theme.NATURAL,
        title=title,
        description=description,
        view=UNSET if frame else alt.ViewBackground(stroke=None),
    )


def grid(shape: tuple[int, ...]) -> Pair:
    """Row and column of every cell of a matrix, row by row."""
    row, column = np.indices(shape)
    return row.ravel(), column.ravel()


def striking_cells(distance: np.ndarray, most: int) -> Pair:
    """Row and column of every cell, or of the `most` cells that lie farthest off."""
    row, column = grid(distance.shape)
    if len(row) > most:
        keep = np.sort(np.argsort(-distance.ravel())[:most])
        row, column = row[keep], column[keep]
    return row, column


def other_pairs(rows: np.ndarray) -> Pair:
    """Every ordered pair of two different rows."""
    a, b = (side.ravel() for side in np.meshgrid(rows, rows, indexing="ij"))
    return a[a != b], b[a != b]


def axis_labels(angle: float | None = None, **options: Any) -> alt.Axis:
    """A discrete axis that leaves out every other label rather than draw them over each other."""
    if angle is not None:
        options["labelAngle"] = angle
    return alt.Axis(labelOverlap="parity", grid=False, **options)


def layer_x(labels: Sequence[str]) -> alt.X:
    """Layers across, in the order of their labels."""
    return alt.X("x:O", title="layer", sort=list(labels), axis=axis_labels(-90))


def layer_y(labels: Sequence[str]) -> alt.Y:
    """Layers down, in the order of their labels."""
    return alt.Y("y:O", title="layer", sort=list(labels), axis=axis_labels())


def square_axes(names: Sequence[str], title: str, angle: float) -> dict[str, alt.X | alt.Y]:
    """Axes of a square: field "b" across and "a" down, both with all these names.

    Args:
        names: of rows and columns.
        title: of both axes.
        angle: of the names across, degrees.
    """
    domain = alt.Scale(domain=list(names))
    return {
        "x": alt.X("b:O", title=title, scale=domain, axis=axis_labels(angle)),
        "y": alt.Y("a:O", title=title, scale=domain, axis=axis_labels()),
    }


def expert_x(names: Sequence[str]) -> alt.X:
    """Experts across: field "b"."""
    return alt.X("b:O", title="expert", scale=alt.Scale(domain=list(names)), axis=axis_labels(0))


def name_y(names: Sequence[str], **options: Any) -> alt.Y:
    """Named rows down, every name written."""
    return alt.Y("name:O", title=None, sort=list(names), axis=_name_axis(**options))


def ranked_y() -> alt.Y:
    """Named rows down in the order of their "rank", every name written."""
    return alt.Y("name:O", title=None, sort=alt.SortField("rank"), axis=_name_axis())


def _name_axis(**options: Any) -> alt.Axis:
    return alt.Axis(grid=False, ticks=False, labelOverlap=False, **options)


def layer_number_axis(labels: Sequence[str], width: float) -> alt.Axis:
    """A quantitative axis of layer rows that shows their labels, as many as have room."""
    quoted = ",".join(f"'{label}'" for label in labels)
    every = max(1, int(-(-len(labels) * 16 // width)))
    return alt.Axis(
        values=list(range(0, len(labels), every)),
        labelExpr=f"[{quoted}][datum.value]",
        labelAngle=-90 if len(labels) > 16 else 0,
        grid=False,
    )


def cells(base: alt.Chart, colour: Any, tips: Sequence[Tip], *fields: str) -> alt.Chart:
    """Filled cells.

    Args:
        base: a chart with the positions of cells and nothing else encoded.
        colour: of a cell, by its value.
        tips: lines of the tooltip.
        *fields: that a click picks; none for cells that nothing follows from.
    """
    filled: alt.Chart = base.mark_rect().encode(color=colour, tooltip=tooltip(*tips))
    filled = read_aloud(filled, tips)
    return filled.add_params(pick(*fields)) if fields else filled


def read_aloud(shown: alt.Chart, tips: Sequence[Tip]) -> alt.Chart:
    """Marks that are read as a sentence: "L3 with L8: CKA 0.312".

    Args:
        shown: the marks.
        tips: lines of their tooltip: first the names of what a mark stands for, then its values.
    """
    place: list[str] = []
    values: list[str] = []
    for field, *rest in tips:
        name, form = (*rest, "", "")[:2]
        column, kind = field.split(":")
        if kind == "N" and not values:
            join = "" if not place else " with " if name.startswith("with ") else ", "
            place.append(f"'{join}' + datum.{column}")
        else:
            text = f"format(datum.{column}, '{form}')" if form else f"datum.{column}"
            title = (name or column).replace("\\", "").replace("'", "’")
            values.append(f"'{', ' if values else ''}{title} ' + {text}")
    said = " + ".join([*place, "': '", *values] if values else place)
    aloud: alt.Chart = shown.transform_calculate(said=said).encode(
        description=alt.Description("said:N")
    )
    return aloud


def outlined(
    base: alt.Chart, columns: theme.Columns, step: float, *, chosen: bool = True
) -> list[alt.Chart]:
    """Outlines of cells in the encoding of `base`: white over black, so they show on any colour.

    Args:
        base: a chart with the positions of cells and nothing else encoded.
        columns: the cells to outline, in the fields of `base`.
        step: side of a cell in pixels; narrow cells get thin lines.
        chosen: whether they mark what a reader clicked, rather than a finding.
    """
    rings = base.properties(data=theme.embed(columns))
    if chosen:
        rings = rings.properties(description=CHOSEN)
    black, white = (4.0, 1.8) if step >= 14 else (2.6, 1.2)
    return [
        rings.mark_rect(filled=False, stroke="#000000", strokeWidth=black, tooltip=None),
        rings.mark_rect(filled=False, stroke="#FFFFFF", strokeWidth=white, tooltip=None),
    ]


def ring(base: alt.Chart, columns: theme.Columns, size: float = 150) -> alt.Chart:
    """An orange ring around a point.

    Args:
        base: a chart with the positions of points encoded.
        columns: position of the point, in the fields of `base`.
        size: area in square pixels.
    """
    point: alt.Chart = base.properties(data=theme.embed(columns), description=CHOSEN).mark_point(
        size=size, color=theme.ORANGE, strokeWidth=2.5, tooltip=None
    )
    return point


def dashed_rule(columns: theme.Columns, *, silent: bool = False, **encoding: Any) -> alt.Chart:
    """A dashed grey line at a chance level; a silent one has no tooltip."""
    options: dict[str, Any] = {"tooltip": None} if silent else {}
    rule: alt.Chart = chart(columns, **encoding).mark_rule(
        color=theme.MID_GREY, strokeDash=[5, 4], **options
    )
    return rule


def room(columns: theme.Columns, **encoding: Any) -> alt.Chart:
    """Marks that nobody sees, which axes make room for.

    A domain that follows rows can change with them; one that stands in the specification makes
    another figure of it, which a browser builds anew.
    """
    kept: alt.Chart = chart(columns, **encoding).mark_point(opacity=0, tooltip=None, aria=False)
    return kept


def cut_rule(columns: theme.Columns, **encoding: Any) -> alt.Chart:
    """A dashed orange line where a tree is cut."""
    rule: alt.Chart = chart(columns, **encoding).mark_rule(
        color=theme.ORANGE, strokeWidth=2, strokeDash=[6, 3]
    )
    return rule


def ink_colour() -> Any:
    """Colour of text whose rows carry an "ink" column; it stays out of the colour scales."""
    return highlight(f"datum.ink === '{theme.ON_DARK}'", theme.ON_DARK, theme.ON_LIGHT)


def inked_text(
    base: alt.Chart, text: str | alt.Text, size: float = 10, down: float = 0
) -> alt.Chart:
    """Text on cells, in the "ink" of each; `down` moves it, in pixels. The cells are read aloud."""
    written: alt.Chart = base.mark_text(fontSize=size, dy=down, tooltip=None, aria=False)
    return written.encode(
        text=alt.Text(text) if isinstance(text, str) else text, color=ink_colour()
    )


def cell_digits(base: alt.Chart, step: float, field: str = "value") -> list[alt.Chart]:
    """A value of every cell printed on it; nothing where cells are too small.

    Args:
        base: a chart with the positions of cells encoded and an "ink" column.
        step: side of a cell in pixels.
        field: of the value.
    """
    return [inked_text(base, alt.Text(f"{field}:Q", format=".2f"))] if step >= 28 else []


def highlight(test: str, colour: str = theme.BLUE, other: str = theme.BAND_GREY) -> Any:
    """One colour where a test of a row holds, another elsewhere; no legend.

    Args:
        test: expression of Vega over `datum`.
        colour: where it holds.
        other: where it doesn't.
    """
    return alt.ColorValue(other, condition={"test": test, "value": colour})
