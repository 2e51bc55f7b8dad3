"""Figures of many traces: the experts that texts of each label use."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.figures.traces.lift import lift_columns, lift_layers, rare
from lens.recipe.steps import remembered
from lens.words import fixed

PLOT_WIDTH = 680


@remembered
def label_load(
    share: Float[np.ndarray, "group expert"],
    low: Float[np.ndarray, "group expert"],
    high: Float[np.ndarray, "group expert"],
    groups: Sequence[str],
    *,
    label: str,
) -> alt.LayerChart:
    """Load of a layer's experts in the traces of each label, with intervals over traces.

    Args:
        share: load, which sums to 1 over the experts.
        low: lower ends of 95 % intervals; not a number where a label has one trace.
        high: their upper ends.
        groups: the labels of the traces.
        label: of the layer.
    """
    n_groups, n_experts = share.shape
    group, expert = marks.striking_cells(np.abs(share - share.mean(axis=0)), theme.MAX_MARKS // 2)
    data = {
        "x": expert + (group - (n_groups - 1) / 2) / n_groups * 0.7,
        "expert": [f"E{e}" for e in expert],
        "label": np.asarray(list(groups))[group],
        "load": share[group, expert],
        "low": low[group, expert],
        "high": high[group, expert],
    }
    every = max(1, -(-n_experts * 26 // PLOT_WIDTH))
    scale = alt.Scale(domain=[-0.5, n_experts - 0.5], nice=False, zero=False)
    axis = alt.Axis(
        values=list(range(0, n_experts, every)), labelExpr="'E' + datum.value", grid=False
    )
    y = alt.Y("load:Q", title="share of assignments", scale=alt.Scale(zero=True))
    colour = alt.Color(
        "label:N",
        title="label",
        scale=alt.Scale(domain=list(groups), range=theme.palette(n_groups)),
        legend=alt.Legend(orient="bottom", labelLimit=160, columns=4),
    )
    x = alt.X("x:Q", title="expert", scale=scale, axis=axis)
    base = marks.chart(data, x=x, y=y, color=colour)
    tips = marks.tooltip(
        ("label:N",),
        ("expert:N",),
        ("load:Q", "", ".4f"),
        ("low:Q", "interval from", ".4f"),
        ("high:Q", "to", ".4f"),
    )
    whiskers = base.transform_filter("datum.low !== null").mark_rule(size=1.4, tooltip=None)
    return marks.plot_figure(
        [
            marks.dashed_rule({"load": [1 / n_experts]}, y=y),
            whiskers.encode(y=alt.Y("low:Q", title=None), y2=alt.Y2("high:Q")),
            base.mark_circle(size=46, opacity=1).encode(tooltip=tips),
        ],
        (PLOT_WIDTH, 240),
        theme.title(
            f"Load of the experts of {label} by label",
            f"share of (token, slot) assignments; whiskers: 95 % interval over the label's traces; "
            f"dashed: even share 1/{n_experts}",
            width=PLOT_WIDTH,
        ),
        theme.alt_description(
            f"Load of {n_experts} experts of {label} under {n_groups} labels, from "
            f"{fixed(share.min(), 3)} to {fixed(share.max(), 3)}; even share "
            f"{fixed(1 / n_experts, 3)}"
        ),
    )


@remembered
def label_lift(
    lift: Float[np.ndarray, "group expert"],
    q: Float[np.ndarray, "group expert"],
    share: Float[np.ndarray, "group expert"],
    groups: Sequence[str],
    *,
    label: str,
) -> alt.LayerChart:
    """Load of a layer's experts under each label over their load in all traces.

    Args:
        lift: 1 is chance.
        q: of the differences, over all layers; cells of at most 0.05 are outlined.
        share: the load itself, for the tooltip.
        groups: the labels of the traces.
        label: of the layer.

    Returns:
        A chart with the selection "pick" of the fields group and expert.
    """
    n_groups, n_experts = lift.shape
    group, expert = marks.grid(lift.shape)
    names = [f"E{e}" for e in range(n_experts)]
    a, b = np.asarray(list(groups))[group], np.asarray(names)[expert]
    data = {
        "group": group,
        "expert": expert,
        "a": a,
        "b": b,
        "load": share.ravel(),
        "q": q.ravel(),
    } | lift_columns(lift.ravel())
    step = theme.cell_step(n_experts, 520, high=52)
    down = alt.Y(
        "a:O",
        title="label",
        scale=alt.Scale(domain=list(groups)),
        axis=marks.axis_labels(labelLimit=140),
    )
    base = marks.chart(data, x=marks.expert_x(names), y=down)
    tips: list[marks.Tip] = [
        ("a:N", "label"),
        ("b:N", "expert"),
        ("load:Q", "", ".4f"),
        ("lift:Q", "", ".3f"),
        marks.Q_TIP,
    ]
    beyond = rare(q.ravel())
    outlined = {"a": a[beyond], "b": b[beyond]}
    return marks.cell_figure(
        lift_layers(base, tips, ("group", "expert"), step, outlined),
        (step, min(step, 34)),
        theme.title(
            f"Experts of {label} by label",
            "lift: load under the label over the load in all traces; chance 1; outlined: q ≤ 0.05 "
            f"over all layers ({int(beyond.sum())} here)",
            width=step * n_experts,
        ),
        theme.alt_description(
            f"Heatmap of the lift of {n_experts} experts of {label} under {n_groups} labels",
            f"{int(beyond.sum())} of {beyond.size} at q ≤ 0.05",
        ),
    )
