"""Figures of many traces: the experts that texts of each label use."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme

PLOT_WIDTH = 680


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
        low, high: 95 % intervals; not a number where a label has one trace.
        groups: the labels of the traces.
        label: of the layer.
    """
    n_groups, n_experts = share.shape
    group, expert = (grid.ravel() for grid in np.indices(share.shape))
    if len(group) > theme.MAX_MARKS // 2:
        far = np.abs(share - share.mean(axis=0)).ravel()
        keep = np.sort(np.argsort(-far)[: theme.MAX_MARKS // 2])
        group, expert = group[keep], expert[keep]
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
    shades = [theme.OKABE_ITO[i % len(theme.OKABE_ITO)] for i in range(n_groups)]
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("x:Q", title="expert", scale=scale, axis=axis),
        y=y,
        color=alt.Color(
            "label:N",
            title="label",
            scale=alt.Scale(domain=list(groups), range=shades),
            legend=alt.Legend(orient="bottom", labelLimit=160, columns=4),
        ),
    )
    even = alt.Chart(theme.embed({"load": [1 / n_experts]}))
    tooltip = [
        alt.Tooltip("label:N"),
        alt.Tooltip("expert:N"),
        alt.Tooltip("load:Q", format=".4f"),
        alt.Tooltip("low:Q", title="interval from", format=".4f"),
        alt.Tooltip("high:Q", title="to", format=".4f"),
    ]
    whiskers = base.transform_filter("datum.low !== null")
    return theme.layered(
        even.mark_rule(color=theme.MID_GREY, strokeDash=[5, 4]).encode(y=y),
        whiskers.mark_rule(size=1.4, tooltip=None).encode(
            y=alt.Y("low:Q", title=None), y2="high:Q"
        ),
        base.mark_circle(size=46, opacity=1).encode(tooltip=tooltip),
    ).properties(
        width=PLOT_WIDTH,
        height=240,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            f"Load of the experts of {label} by label",
            f"share of (token, slot) assignments; whiskers: 95 % interval over the label's traces; "
            f"dashed: even share 1/{n_experts}",
            width=PLOT_WIDTH,
        ),
        description=theme.alt_description(
            f"Load of {n_experts} experts of {label} under {n_groups} labels, from "
            f"{share.min():.3f} to {share.max():.3f}; even share {1 / n_experts:.3f}"
        ),
    )


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
        q: of the differences, over all layers; cells of at most 0.05 are outlined.
        share: the load itself, for the tooltip.
        groups: the labels of the traces.
        label: of the layer.

    Returns:
        A chart with the selection "pick" of the fields group and expert.
    """
    n_groups, n_experts = lift.shape
    group, expert = (grid.ravel() for grid in np.indices(lift.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.clip(np.log2(lift), -2, 2).ravel()
    scale = theme.diverging((-2, 2), 0.0)
    names = [f"E{e}" for e in range(n_experts)]
    data = {
        "group": group,
        "expert": expert,
        "a": np.asarray(list(groups))[group],
        "b": np.asarray(names)[expert],
        "lift": lift.ravel(),
        "load": share.ravel(),
        "q": q.ravel(),
        "log2": logs,
        "ink": theme.ink(logs, scale),
    }
    step = theme.cell_step(n_experts, 520, high=52)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("b:O", title="expert", scale=alt.Scale(domain=names), axis=theme.axis_labels(0)),
        y=alt.Y(
            "a:O",
            title="label",
            scale=alt.Scale(domain=list(groups)),
            axis=theme.axis_labels(labelLimit=140),
        ),
    )
    as_factor = "'× ' + format(pow(2, datum.value), '.3~g')"
    cells = base.mark_rect().encode(
        color=alt.Color(
            "log2:Q",
            title="lift",
            scale=scale,
            legend=alt.Legend(values=[-2, -1, 0, 1, 2], labelExpr=as_factor),
        ),
        tooltip=[
            alt.Tooltip("a:N", title="label"),
            alt.Tooltip("b:N", title="expert"),
            alt.Tooltip("load:Q", format=".4f"),
            alt.Tooltip("lift:Q", format=".3f"),
            alt.Tooltip("q:Q", title="q (Benjamini–Hochberg)", format=".2g"),
        ],
    )
    pick = alt.selection_point(name="pick", fields=["group", "expert"], empty=False)
    layers = [cells.add_params(pick)]
    if step >= 28:
        known = base.transform_filter("datum.lift !== null")
        layers.append(
            known.mark_text(fontSize=10, tooltip=None).encode(
                text=alt.Text("lift:Q", format=".2f"), color=theme.ink_colour()
            )
        )
    rare = np.nan_to_num(q.ravel(), nan=1) <= 0.05
    if rare.any():
        layers += theme.outlined(base, {"a": data["a"][rare], "b": data["b"][rare]}, step)
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(min(step, 34)),
        autosize=theme.NATURAL,
        title=theme.title(
            f"Experts of {label} by label",
            "lift: load under the label over the load in all traces; chance 1; outlined: q ≤ 0.05 "
            f"over all layers ({int(rare.sum())} here)",
            width=step * n_experts,
        ),
        description=theme.alt_description(
            f"Heatmap of the lift of {n_experts} experts of {label} under {n_groups} labels",
            f"{int(rare.sum())} of {rare.size} at q ≤ 0.05",
        ),
    )
