"""Figures of experts: one (layer, expert) at a time, and experts against experts.

An expert's index has no meaning across layers: experts can be renumbered within a
layer without changing the model. Figures that line indexes up say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.figures.routers.expert_grid import GridText, MeasureText, expert_grid
from lens.recipe.steps import remembered
from lens.words import fixed, significant

if TYPE_CHECKING:
    from lens.experts.measures import ExpertMeasures


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
        "L1 / L2 of the router column",
        "L1 / L2",
        "no unit",
        True,
    ),
    "breadth": MeasureText(
        "Probability of being selected", "P(selected)", "under an isotropic prior", True
    ),
    "max_similarity": MeasureText(
        "Highest cosine with an expert of another layer", "highest cosine", "cosine", False
    ),
    "load": MeasureText("Load", "load", "share of (token, slot) assignments", True),
}
# What has the value that a measure's level is.
LEVELS = {
    "l1_l2": "Gaussian weights",
    "breadth": "even, K / E,",
    "max_similarity": "unrelated directions, median,",
    "load": "even, 1 / E,",
}


@remembered
def expert_map(
    values: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    measure: str,
    chance: float | None = None,
    picked: tuple[int, int] | None = None,
    *,
    given: Mapping[tuple[int, int], str] | None = None,
) -> alt.LayerChart:
    """One measure of every expert of every layer.

    Args:
        values: the measure.
        labels: of the layers.
        measure: "norm", "variance", "l1_l2", "breadth", "max_similarity" or "load";
            another word is used as the title.
        chance: the measure's value for an expert that is nothing special.
        picked: the cell to outline, as (layer, expert).
        given: names that somebody gave to experts, for the tooltip.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    text = MEASURES.get(measure, MeasureText(measure, measure, "", False))
    values = np.asarray(values, dtype=float)
    n_layers, n_experts = values.shape
    domain = theme.fitted_domain(values, middle=chance if text.diverging else None)
    centred = text.diverging and chance is not None
    level = "" if chance is None else f"{LEVELS.get(measure, 'chance')} {significant(chance)}"
    words = GridText(
        title=text.title,
        reading="; ".join(part for part in (text.unit, level, theme.PER_INDEX) if part),
        legend=text.short,
        tooltip=text.title,
        description=theme.alt_description(
            f"{text.title} of {n_experts} experts in each of {n_layers} layers",
            f"Values from {significant(np.nanmin(values), 4)} to "
            f"{significant(np.nanmax(values), 4)}",
            level,
        ),
    )
    scale = theme.diverging(domain, chance or 0.0) if centred else theme.sequential(domain)
    return expert_grid(values, labels, scale, words, picked=picked, given=given)


@remembered
def expert_variance_analysis(
    measures: ExpertMeasures, labels: Sequence[str], *, expert: int | None = None
) -> alt.VConcatChart:
    """The classic weight statistics of every expert: variance, L2 norm and L1 / L2 by layer.

    Args:
        measures: of all experts.
        labels: of the layers.
        expert: an index to draw as a line through the layers.
    """
    panels = [
        _statistic(name, np.asarray(values), labels, measures.baselines.get(name), expert)
        for name, values in (
            ("variance", measures.variance),
            ("norm", measures.norm),
            ("l1_l2", measures.l1_l2),
        )
    ]
    return alt.vconcat(*panels, spacing=14).properties(
        autosize=theme.NATURAL,
        title=theme.title(
            "Weight statistics of experts",
            "One point per expert; the line runs through the layers' means. "
            f"Dashed: Gaussian weights, where they have a level. Classic view: {theme.PER_INDEX}.",
            width=640,
        ),
        description=theme.alt_description(
            f"Variance, L2 norm and L1 over L2 of the router columns in {len(labels)} layers",
            f"L2 norms run from {significant(np.min(measures.norm))} to "
            f"{significant(np.max(measures.norm))}",
        ),
    )


def _statistic(
    name: str,
    values: np.ndarray,
    labels: Sequence[str],
    baseline: float | None,
    expert: int | None,
) -> alt.LayerChart:
    text = MEASURES[name]
    x = alt.X("x:O", title=None, sort=list(labels), axis=marks.axis_labels(-90))
    y = alt.Y("value:Q", title=text.short, scale=alt.Scale(zero=False))
    per_layer = {
        "x": labels,
        "value": values.mean(axis=1),
        "low": values.min(axis=1),
        "high": values.max(axis=1),
    }
    base = marks.chart(per_layer, x=x)
    layers: list[alt.Chart] = [
        base.mark_rule(color=theme.BAND_GREY, opacity=0.6).encode(
            y=alt.Y("low:Q"), y2=alt.Y2("high:Q")
        ),
        base.mark_line(color=theme.BLUE, strokeWidth=1.5).encode(y=y),
    ]
    if 3 * values.size <= theme.MAX_MARKS:
        layer, index = marks.grid(values.shape)
        points = {
            "x": np.asarray(labels)[layer],
            "name": theme.unit_names(labels, layer, index),
            "value": values.ravel(),
        }
        tips = marks.tooltip(("name:N", "expert"), ("value:Q", text.title, ".4~g"))
        size = 22 if values.shape[1] <= 16 else 8
        dots = marks.chart(points, x=x, y=y, tooltip=tips)
        layers.append(dots.mark_circle(size=size, opacity=0.75, color=theme.BLUE))
    if expert is not None:
        line = marks.chart({"x": labels, "value": values[:, expert]}, x=x, y=y)
        layers.append(line.mark_line(color=theme.ORANGE, strokeWidth=2, point=True))
    if baseline is not None:
        layers.append(marks.dashed_rule({"value": [baseline]}, y=y))
    return marks.layered(*layers).properties(
        width=640, height=120, title=theme.title(text.title, text.unit, width=640)
    )


@remembered
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

    Args:
        breadth: probability of being selected under an isotropic prior.
        load: measured shares.
        labels: of the layers.
        picked: (layer, expert) to ring.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    share = breadth / breadth.sum(axis=1, keepdims=True)
    n_layers, n_experts = share.shape
    layer, expert = marks.striking_cells(np.abs(share - load), theme.MAX_MARKS)
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
    depth = theme.sequential((0, max(n_layers - 1, 1)))
    base = marks.chart(data, x=x, y=y)
    points = base.mark_circle(size=40, opacity=0.8).encode(
        color=alt.Color("layer:Q", title="layer (row)", scale=depth),
        tooltip=marks.tooltip(
            ("name:N", "expert"), ("breadth:Q", "foretold", ".4f"), ("load:Q", "measured", ".4f")
        ),
    )
    diagonal = marks.chart({"breadth": [0, top], "load": [0, top]}, x=x, y=y)
    cross = marks.chart({"breadth": [even], "load": [even]}, x=x, y=y)
    layers = [
        diagonal.mark_line(color=theme.MID_GREY, strokeDash=[5, 4], strokeWidth=1),
        cross.mark_point(shape="cross", size=140, color=theme.MID_GREY, filled=True),
        points.add_params(marks.pick("layer", "expert")),
    ]
    if picked is not None:
        at = {"breadth": [share[picked]], "load": [load[picked]]}
        layers.append(marks.ring(base, at, 160))
    correlation = float(np.corrcoef(share.ravel(), load.ravel())[0, 1]) if share.std() else np.nan
    return marks.plot_figure(
        layers,
        (380, 380),
        theme.title(
            "Breadth against load",
            f"shares of a layer's selections; correlation {significant(correlation)}; dashed: "
            f"equal; cross: even share 1/{n_experts}",
            width=380,
        ),
        theme.alt_description(
            f"Scatter of {n_layers * n_experts} experts: share of selections foretold by the "
            "router against measured load",
            f"Correlation {fixed(correlation, 2)}",
        ),
        flexible=False,
    )
