"""Figures of experts: one (layer, expert) at a time, and experts against experts.

An expert's index has no meaning across layers: experts can be renumbered within a
layer without changing the model. Figures that line indexes up say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme
from lens.words import significant

if TYPE_CHECKING:
    from lens.experts.measures import ExpertMeasures


@dataclass(frozen=True)
class MeasureText:
    """How a measure of experts is titled.

    Attributes:
        title: the quantity.
        short: its name at an axis.
        unit: its unit or definition, and what is known of chance, for the second line.
        diverging: coloured from the chance level in both directions.
    """

    title: str
    short: str
    unit: str
    diverging: bool


MEASURES: Mapping[str, MeasureText] = {
    "norm": MeasureText(
        "L2 norm of the router column",
        "L2 norm",
        "units of the weights; no chance level, for the scale of weights is free",
        False,
    ),
    "variance": MeasureText(
        "Variance of the router column",
        "variance",
        "weights squared; no chance level, for the scale of weights is free",
        False,
    ),
    "l1_l2": MeasureText(
        "L1 / L2 of the router column", "L1 / L2", "no unit; Gaussian weights: √(2d/π)", True
    ),
    "breadth": MeasureText(
        "Probability of being selected", "P(selected)", "under an isotropic prior; mean K / E", True
    ),
    "max_similarity": MeasureText(
        "Highest cosine with an expert of another layer", "highest cosine", "cosine", False
    ),
    "load": MeasureText(
        "Load", "load", "share of (token, slot) assignments; even share 1 / E", True
    ),
}


def expert_map(
    values: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    measure: str,
    chance: float | None = None,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """One measure of every expert of every layer.

    Where a model has more experts than can be drawn, neighbouring indexes share a
    row, which shows the one of them farthest from the median.

    Args:
        measure: "norm", "variance", "l1_l2", "breadth", "max_similarity" or "load";
            another word is used as the title.
        chance: the measure's value for an expert that is nothing special.
        picked: the cell to outline, as (layer, expert).

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    text = MEASURES.get(measure, MeasureText(measure, measure, "", False))
    n_layers, n_experts = values.shape
    shown, group = representatives(np.asarray(values, dtype=float))
    layer, row = (grid.ravel() for grid in np.indices(shown.shape))
    expert = shown.ravel()
    names = np.asarray(labels)
    row_names = theme.row_names(n_experts, group)
    cell_values = values[layer, expert]
    domain = theme.fitted_domain(values, middle=chance if text.diverging else None)
    centred = text.diverging and chance is not None
    scale = theme.diverging(domain, chance or 0.0) if centred else theme.sequential(domain)
    data = {
        "layer": layer,
        "expert": expert,
        "name": theme.unit_names(labels, layer, expert),
        "x": names[layer],
        "y": np.asarray(row_names)[row],
        "value": cell_values,
    }
    step_x = theme.cell_step(n_layers, 680, high=40)
    step_y = theme.cell_step(len(row_names), 320, high=26)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("x:O", title="layer", sort=list(labels), axis=theme.axis_labels(-90)),
        y=alt.Y(
            "y:O", title="expert (index in its layer)", sort=row_names, axis=theme.axis_labels()
        ),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=text.short, scale=scale),
        tooltip=[
            alt.Tooltip("name:N", title="expert"),
            alt.Tooltip("value:Q", title=text.title, format=".4~g"),
        ],
    )
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    layers = [cells.add_params(pick)]
    if picked is not None:
        ring = {"x": [labels[picked[0]]], "y": [row_names[picked[1] // group]]}
        layers += theme.outlined(base, ring, step_x)
    level = "" if chance is None else f"; {theme.chance_text(chance)}"
    grouped = f"Rows of {group} experts show the one farthest from the median." * (group > 1)
    width = step_x * n_layers
    return theme.layered(*layers).properties(
        width=alt.Step(step_x),
        height=alt.Step(step_y),
        autosize=theme.NATURAL,
        title=theme.title(
            text.title,
            f"{text.unit}{level}; {theme.PER_INDEX}. {grouped}".lstrip("; "),
            width=width,
        ),
        description=theme.alt_description(
            f"{text.title} of {n_experts} experts in each of {n_layers} layers",
            f"Values from {np.nanmin(values):.4g} to {np.nanmax(values):.4g}",
            "" if chance is None else theme.chance_text(chance),
        ),
    )


def expert_variance_analysis(
    measures: ExpertMeasures, labels: Sequence[str], *, expert: int | None = None
) -> alt.VConcatChart:
    """The classic weight statistics of every expert: variance, L2 norm and L1 / L2 by layer.

    Args:
        expert: an index to draw as a line through the layers.
    """
    panels = [
        _statistic(name, np.asarray(getattr(measures, name)), labels, measures.baselines, expert)
        for name in ("variance", "norm", "l1_l2")
    ]
    last = panels[-1]
    return alt.vconcat(*panels[:-1], last, spacing=14).properties(
        autosize=theme.NATURAL,
        title=theme.title(
            "Weight statistics of experts",
            "One point per expert; the line runs through the layers' means. "
            f"Dashed: chance level where one exists. Classic view: {theme.PER_INDEX}.",
            width=640,
        ),
        description=theme.alt_description(
            f"Variance, L2 norm and L1 over L2 of the router columns in {len(labels)} layers",
            f"L2 norms run from {np.min(measures.norm):.3g} to {np.max(measures.norm):.3g}",
        ),
    )


def breadth_against_load(
    breadth: Float[np.ndarray, "layer expert"],
    load: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    *,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Each expert's share of selections as its router foretells it, against its measured load.

    Both are shares that sum to 1 over a layer's experts: breadth is divided by its
    sum over the layer. Points on the diagonal are used as often as an isotropic
    residual stream would use them.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    share = breadth / breadth.sum(axis=1, keepdims=True)
    n_layers, n_experts = share.shape
    layer, expert = (grid.ravel() for grid in np.indices(share.shape))
    if len(layer) > theme.MAX_MARKS:
        distance = np.abs(share - load).ravel()
        keep = np.sort(np.argsort(-distance)[: theme.MAX_MARKS])
        layer, expert = layer[keep], expert[keep]
    even = 1 / n_experts
    top = float(max(share.max(), load.max())) * 1.05
    axis = alt.Scale(domain=[0, top], nice=False)
    x = alt.X("breadth:Q", title="share foretold by the router (isotropic prior)", scale=axis)
    y = alt.Y("load:Q", title="measured load (share of assignments)", scale=axis)
    data = {
        "layer": layer,
        "expert": expert,
        "name": theme.unit_names(labels, layer, expert),
        "breadth": share[layer, expert],
        "load": load[layer, expert],
    }
    tooltip = [
        alt.Tooltip("name:N", title="expert"),
        alt.Tooltip("breadth:Q", title="foretold", format=".4f"),
        alt.Tooltip("load:Q", title="measured", format=".4f"),
    ]
    colour = alt.Color(
        "layer:Q", title="layer (row)", scale=theme.sequential((0, max(n_layers - 1, 1)))
    )
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    base = alt.Chart(theme.embed(data)).encode(x=x, y=y)
    points = base.mark_circle(size=40, opacity=0.8).encode(color=colour, tooltip=tooltip)
    diagonal = alt.Chart(theme.embed({"breadth": [0, top], "load": [0, top]})).encode(x=x, y=y)
    even_point = alt.Chart(theme.embed({"breadth": [even], "load": [even]})).encode(x=x, y=y)
    layers = [
        diagonal.mark_line(color=theme.MID_GREY, strokeDash=[5, 4], strokeWidth=1),
        even_point.mark_point(shape="cross", size=140, color=theme.MID_GREY, filled=True),
        points.add_params(pick),
    ]
    if picked is not None:
        at = {"breadth": [share[picked]], "load": [load[picked]]}
        ring = base.properties(data=theme.embed(at))
        layers.append(ring.mark_point(size=160, color=theme.ORANGE, strokeWidth=2.5, tooltip=None))
    correlation = float(np.corrcoef(share.ravel(), load.ravel())[0, 1]) if share.std() else np.nan
    return theme.layered(*layers).properties(
        width=380,
        height=380,
        autosize=theme.NATURAL,
        title=theme.title(
            "Breadth against load",
            f"shares of a layer's selections; correlation {significant(correlation)}; dashed: "
            f"equal; cross: even share 1/{n_experts}",
            width=380,
        ),
        description=theme.alt_description(
            f"Scatter of {n_layers * n_experts} experts: share of selections foretold by the "
            "router against measured load",
            f"Correlation {correlation:.2f}",
        ),
    )


def _statistic(
    name: str,
    values: np.ndarray,
    labels: Sequence[str],
    baselines: Mapping[str, float],
    expert: int | None,
) -> alt.LayerChart:
    text = MEASURES[name]
    n_layers, n_experts = values.shape
    x = alt.X("x:O", title=None, sort=list(labels), axis=theme.axis_labels(-90))
    y = alt.Y("value:Q", title=text.short, scale=alt.Scale(zero=False))
    per_layer = {
        "x": labels,
        "value": values.mean(axis=1),
        "low": values.min(axis=1),
        "high": values.max(axis=1),
    }
    base = alt.Chart(theme.embed(per_layer)).encode(x=x)
    layers: list[alt.Chart] = [
        base.mark_rule(color=theme.BAND_GREY, opacity=0.6).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(color=theme.BLUE, strokeWidth=1.5).encode(y=y),
    ]
    if 3 * values.size <= theme.MAX_MARKS:
        layer, index = (grid.ravel() for grid in np.indices(values.shape))
        points = {
            "x": np.asarray(labels)[layer],
            "name": theme.unit_names(labels, layer, index),
            "value": values.ravel(),
        }
        dots = alt.Chart(theme.embed(points)).mark_circle(
            size=22 if n_experts <= 16 else 8, opacity=0.75, color=theme.BLUE
        )
        tooltip = [
            alt.Tooltip("name:N", title="expert"),
            alt.Tooltip("value:Q", title=text.title, format=".4~g"),
        ]
        layers.append(dots.encode(x=x, y=y, tooltip=tooltip))
    if expert is not None:
        line = alt.Chart(theme.embed({"x": labels, "value": values[:, expert]}))
        layers.append(
            line.mark_line(color=theme.ORANGE, strokeWidth=2, point=True).encode(x=x, y=y)
        )
    if name in baselines:
        rule = alt.Chart(theme.embed({"value": [baselines[name]]}))
        layers.append(rule.mark_rule(color=theme.MID_GREY, strokeDash=[5, 4]).encode(y=y))
    return theme.layered(*layers).properties(
        width=640, height=120, title=theme.title(text.title, text.unit, width=640)
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
