"""A value of every expert in every layer, with signs on some: the grid of vocabulary figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme
from lens.figures.routers.experts import representatives

DIRECT = "direct path, the embedding alone"


@dataclass(frozen=True)
class GridText:
    """How a value of a (layer, expert) cell is titled.

    Attributes:
        title: the quantity.
        short: its name at the legend.
        unit: unit and reading, for the second line.
    """

    title: str
    short: str
    unit: str


def expert_grid(
    values: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    text: GridText,
    *,
    title: str,
    middle: float,
    level: str,
    marks: tuple[np.ndarray, np.ndarray, np.ndarray],
    picked: tuple[int, int] | None,
    description: str,
    lowest: float = -np.inf,
) -> alt.LayerChart:
    """Layers across, experts down, coloured from `middle`, with signs on some cells."""
    n_layers, n_experts = values.shape
    shown, group = representatives(values)
    layer, row = (grid.ravel() for grid in np.indices(shown.shape))
    expert = shown.ravel()
    names, row_names = np.asarray(labels), np.asarray(theme.row_names(n_experts, group))
    cells = values[layer, expert]
    low, high = theme.fitted_domain(values, middle=middle)
    scale = theme.diverging((max(low, lowest), high), middle)
    data: dict[str, Any] = {
        "layer": layer,
        "expert": expert,
        "name": theme.unit_names(labels, layer, expert),
        "x": names[layer],
        "y": row_names[row],
        "value": cells,
    }
    step_x = theme.cell_step(n_layers, 680, high=40)
    step_y = theme.cell_step(len(row_names), 320, high=26)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("x:O", title="layer", sort=list(labels), axis=theme.axis_labels(-90)),
        y=alt.Y(
            "y:O",
            title="expert (index in its layer)",
            sort=row_names.tolist(),
            axis=theme.axis_labels(),
        ),
    )
    tooltip = [
        alt.Tooltip("name:N", title="expert"),
        alt.Tooltip("value:Q", title=text.short, format=".4~g"),
    ]
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    boxes = base.mark_rect().encode(
        color=alt.Color("value:Q", title=text.short, scale=scale), tooltip=tooltip
    )
    layers: list[alt.Chart] = [boxes.add_params(pick)]
    at_layer, at_expert, sign = marks
    if len(at_layer):
        signs = {
            "x": names[at_layer],
            "y": row_names[at_expert // group],
            "sign": sign,
            "ink": theme.ink(values[at_layer, at_expert], scale),
        }
        size = min(13.0, 0.8 * min(step_x, step_y) + 2)
        layers.append(
            base.properties(data=theme.embed(signs))
            .mark_text(fontSize=size, fontWeight="bold", tooltip=None)
            .encode(text="sign:N", color=theme.ink_colour())
        )
    if picked is not None:
        ring = {"x": [labels[picked[0]]], "y": [str(row_names[picked[1] // group])]}
        layers += theme.outlined(base, ring, step_x)
    grouped = f" Rows of {group} experts show the one farthest from the median." * (group > 1)
    return theme.layered(*layers).properties(
        width=alt.Step(step_x),
        height=alt.Step(step_y),
        autosize=theme.NATURAL,
        title=theme.title(
            title, f"{text.unit}; {level}; {DIRECT}.{grouped}", width=step_x * n_layers
        ),
        description=theme.alt_description(description),
    )
