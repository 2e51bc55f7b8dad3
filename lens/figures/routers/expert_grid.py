"""A value of every expert in every layer, with signs on some: layers across, experts down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.recipe.steps import remembered

# Layer and expert of some cells, and the sign on each.
Signs = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class MeasureText:
    """Words for a measure of experts.

    Attributes:
        title: the quantity.
        short: its name at an axis or a legend.
        unit: its unit or definition, and what is known of chance, for the second line.
        diverging: coloured from the chance level in both directions.
    """

    title: str
    short: str
    unit: str
    diverging: bool = True


@dataclass(frozen=True)
class GridText:
    """Words around a grid.

    Attributes:
        title: first line of the title.
        reading: its second line: unit, chance level, signs.
        legend: name of the values at the colours.
        tooltip: their name in the tooltip.
        description: alternative text.
    """

    title: str
    reading: str
    legend: str
    tooltip: str
    description: str


@remembered
def expert_grid(
    values: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    scale: alt.Scale,
    text: GridText,
    *,
    signs: Signs | None = None,
    picked: tuple[int, int] | None = None,
    given: Mapping[tuple[int, int], str] | None = None,
) -> alt.LayerChart:
    """Values of all experts as cells, with signs on some of them.

    Where a model has more experts than can be drawn, neighbouring indexes share a row, which
    shows the one of them farthest from the median.

    Args:
        values: to colour by.
        labels: of the layers.
        scale: colours of the values.
        text: around the cells.
        signs: on some cells.
        picked: the cell to outline, as (layer, expert).
        given: names that somebody gave to experts, for the tooltip.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    n_layers, n_experts = values.shape
    shown, group = representatives(values)
    layer, row = marks.grid(shown.shape)
    expert = shown.ravel()
    names, row_names = np.asarray(labels), np.asarray(theme.row_names(n_experts, group))
    data = {
        "layer": layer,
        "expert": expert,
        "name": theme.unit_names(labels, layer, expert, given),
        "x": names[layer],
        "y": row_names[row],
        "value": values[layer, expert],
    }
    title = "expert (index in its layer)"
    y = alt.Y("y:O", title=title, sort=row_names.tolist(), axis=marks.axis_labels())
    base = marks.chart(data, x=marks.layer_x(labels), y=y)
    tips: list[marks.Tip] = [("name:N", "expert"), ("value:Q", text.tooltip, ".4~g")]
    colour = alt.Color("value:Q", title=text.legend, scale=scale)
    layers = [marks.cells(base, colour, tips, "layer", "expert")]
    step_x = theme.cell_step(n_layers, 680, high=40)
    step_y = theme.cell_step(len(row_names), 320, high=26)
    if signs is not None and len(signs[0]):
        at_layer, at_expert, sign = signs
        signed = {
            "x": names[at_layer],
            "y": row_names[at_expert // group],
            "sign": sign,
            "ink": theme.ink(values[at_layer, at_expert], scale),
        }
        written = base.properties(data=theme.embed(signed)).mark_text(
            fontSize=min(13.0, 0.8 * min(step_x, step_y) + 2), fontWeight="bold", tooltip=None
        )
        layers.append(written.encode(text=alt.Text("sign:N"), color=marks.ink_colour()))
    if picked is not None:
        ring = {"x": [labels[picked[0]]], "y": [str(row_names[picked[1] // group])]}
        layers += marks.outlined(base, ring, step_x)
    grouped = f" Rows of {group} experts show the one farthest from the median." * (group > 1)
    return marks.cell_figure(
        layers,
        (step_x, step_y),
        theme.title(text.title, f"{text.reading}.{grouped}", width=step_x * n_layers),
        theme.alt_description(text.description),
    )


def representatives(values: np.ndarray) -> tuple[np.ndarray, int]:
    """[layer, row] index of the expert each drawn row shows, and experts per row."""
    n_layers, n_experts = values.shape
    group = -(-n_layers * n_experts // theme.MAX_MARKS)
    if group == 1:
        return np.broadcast_to(np.arange(n_experts), values.shape), 1
    starts = np.arange(0, n_experts, group)
    far = np.abs(values - np.nanmedian(values))
    padded = np.pad(far, ((0, 0), (0, len(starts) * group - n_experts)), constant_values=-1)
    return starts + padded.reshape(n_layers, len(starts), group).argmax(axis=2), group
