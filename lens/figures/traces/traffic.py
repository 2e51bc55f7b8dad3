"""Figures of a prompt's routing summed over its tokens: load, pairs, paths, comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.figures import theme

PLOT_WIDTH = 680
# Experts of the paths figure; of more, only those that a drawn flow touches.
MAX_NODES = 2000


def load_by_layer(
    load: Float[np.ndarray, "layer expert"],
    low: float,
    high: float,
    labels: Sequence[str],
    *,
    picked: tuple[int, int] | None = None,
    interval: tuple[Float[np.ndarray, "layer expert"], Float[np.ndarray, "layer expert"]]
    | None = None,
) -> alt.LayerChart:
    """Each expert's share of a layer's (token, slot) assignments, against an even share.

    Args:
        low, high: where the load of an expert chosen at random falls with 95 %.
        interval: lowest and highest load that the sample leaves possible, for each expert.
        picked: the point to ring, as (layer, expert).

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    n_layers, n_experts = load.shape
    layer, expert = (grid.ravel() for grid in np.indices(load.shape))
    if len(layer) > theme.MAX_MARKS // 2:
        far = np.abs(load - 1 / n_experts).ravel()
        keep = np.sort(np.argsort(-far)[: theme.MAX_MARKS // 2])
        layer, expert = layer[keep], expert[keep]
    values = load[layer, expert]
    places = np.where(values > high, "above", np.where(values < low, "below", "within"))
    data = {
        "layer": layer,
        "expert": expert,
        "name": theme.unit_names(labels, layer, expert),
        "x": _spread(layer, expert, n_experts),
        "value": values,
        "place": places,
    }
    if interval is not None:
        data |= {"least": interval[0][layer, expert], "most": interval[1][layer, expert]}
    scale = alt.Scale(
        domain=["above", "within", "below"], range=[theme.ORANGE, theme.BAND_GREY, theme.BLUE]
    )
    x = alt.X(
        "x:Q",
        title="layer; experts in order of index within each",
        scale=alt.Scale(domain=[-0.5, n_layers - 0.5], nice=False, zero=False),
        axis=_layer_axis(labels),
    )
    y = alt.Y("value:Q", title="share of assignments", scale=alt.Scale(zero=True))
    band = alt.Chart(theme.embed({"value": [low], "high": [high]}))
    even = alt.Chart(theme.embed({"value": [1 / n_experts]}))
    base = alt.Chart(theme.embed(data)).encode(x=x, y=y)
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    tooltip = [
        alt.Tooltip("name:N", title="expert"),
        alt.Tooltip("value:Q", title="load", format=".4f"),
        alt.Tooltip("place:N", title="against the band"),
    ]
    if interval is not None:
        tooltip += [
            alt.Tooltip("least:Q", title="interval from", format=".4f"),
            alt.Tooltip("most:Q", title="to", format=".4f"),
        ]
    roomy = PLOT_WIDTH / len(labels) / n_experts >= 6
    size = 46 if roomy else 14
    layers = [
        band.mark_rect(color=theme.BAND_GREY, opacity=0.25).encode(y=y, y2="high:Q"),
        even.mark_rule(color=theme.MID_GREY, strokeDash=[5, 4]).encode(y=y),
        base.mark_circle(size=size, opacity=1)
        .encode(color=alt.Color("place:N", title="chance band", scale=scale), tooltip=tooltip)
        .add_params(pick),
    ]
    if roomy:
        digits = base.mark_text(dy=-9, fontSize=9, color=theme.MID_GREY, tooltip=None)
        above = {} if interval is None else {"y": alt.Y("most:Q", title=None)}
        layers.append(digits.encode(text="expert:N", **above))
    if interval is not None:
        bars = base.mark_rule(color=theme.MID_GREY, size=1, opacity=0.8, tooltip=None)
        layers.insert(2, bars.encode(y=alt.Y("least:Q", title=None), y2="most:Q"))
    if picked is not None:
        at = {
            "x": _spread(np.array([picked[0]]), np.array([picked[1]]), n_experts),
            "value": [load[picked]],
        }
        ring = base.properties(data=theme.embed(at))
        layers.append(ring.mark_point(size=150, color=theme.ORANGE, strokeWidth=2.5, tooltip=None))
    outside = int(np.sum((load < low) | (load > high)))
    whiskers = "" if interval is None else "; whiskers: 95 % interval of a layer's shares together"
    return theme.layered(*layers).properties(
        width=PLOT_WIDTH,
        height=240,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Load of every expert",
            f"share of (token, slot) assignments; dashed: even share 1/{n_experts}; grey: 95 % "
            f"band of choices at random ({low:.3f} to {high:.3f}); {outside} of {load.size} "
            f"outside{whiskers}",
            width=PLOT_WIDTH,
        ),
        description=theme.alt_description(
            f"Load of {n_experts} experts in {n_layers} layers, from {load.min():.3f} to "
            f"{load.max():.3f}; even share {1 / n_experts:.3f}",
            f"{outside} of {load.size} lie outside the 95 % band {low:.3f} to {high:.3f}",
        ),
    )


def coselection_matrix(
    lift: Float[np.ndarray, "expert expert"],
    counts: Int[np.ndarray, "expert expert"] | None = None,
    *,
    label: str,
    q: Float[np.ndarray, "expert expert"] | None = None,
) -> alt.LayerChart:
    """How often two experts are chosen together, against what their loads alone would give.

    Args:
        lift: observed over expected; 1 is chance.
        counts: tokens that chose both, for the tooltip.
        label: the layer, or "all layers".
        q: p-values after Benjamini and Hochberg; pairs of at most 0.05 are outlined.

    Returns:
        A chart with the selection "pick" of the fields ea and eb.
    """
    n_experts = len(lift)
    a, b = np.nonzero(~np.eye(n_experts, dtype=bool))
    if n_experts > 100:
        a, b = np.tril_indices(n_experts, -1)
    if len(a) > theme.MAX_MARKS:
        far = np.abs(_log_lift(lift[a, b]))
        keep = np.sort(np.argsort(-np.nan_to_num(far, nan=-1))[: theme.MAX_MARKS])
        a, b = a[keep], b[keep]
    values = lift[a, b]
    logs = _log_lift(values)
    scale = theme.diverging((-2, 2), 0.0)
    names = [f"E{e}" for e in range(n_experts)]
    data = {
        "ea": a,
        "eb": b,
        "a": np.asarray(names)[a],
        "b": np.asarray(names)[b],
        "lift": values,
        "log2": logs,
        "ink": theme.ink(logs, scale),
    }
    tooltip = [
        alt.Tooltip("a:N", title="expert"),
        alt.Tooltip("b:N", title="with expert"),
        alt.Tooltip("lift:Q", format=".3f"),
    ]
    if counts is not None:
        data["tokens"] = np.asarray(counts)[a, b]
        tooltip.append(alt.Tooltip("tokens:Q", title="tokens"))
    if q is not None:
        data["q"] = q[a, b]
        tooltip.append(alt.Tooltip("q:Q", title="q (Benjamini–Hochberg)", format=".2g"))
    step = theme.cell_step(n_experts, 360)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("b:O", title="expert", scale=alt.Scale(domain=names), axis=theme.axis_labels(0)),
        y=alt.Y("a:O", title="expert", scale=alt.Scale(domain=names), axis=theme.axis_labels()),
    )
    as_factor = "'× ' + format(pow(2, datum.value), '.3~g')"
    legend = alt.Legend(values=[-2, -1, 0, 1, 2], labelExpr=as_factor)
    cells = base.mark_rect().encode(
        color=alt.Color("log2:Q", title="lift", scale=scale, legend=legend), tooltip=tooltip
    )
    layers = [cells.add_params(alt.selection_point(name="pick", fields=["ea", "eb"], empty=False))]
    if step >= 28:
        known = base.transform_filter("datum.lift !== null")
        layers.append(
            known.mark_text(fontSize=10, tooltip=None).encode(
                text=alt.Text("lift:Q", format=".2f"), color=theme.ink_colour()
            )
        )
    marked = ""
    if q is not None:
        rare = np.nan_to_num(q[a, b], nan=1) <= 0.05
        marked = f"; outlined: q ≤ 0.05 ({np.count_nonzero(rare) // (1 if n_experts > 100 else 2)})"
        if rare.any():
            layers += theme.outlined(base, {"a": data["a"][rare], "b": data["b"][rare]}, step)
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(step),
        autosize=theme.NATURAL,
        title=theme.title(
            f"Experts chosen together, {label}",
            "lift: tokens that chose both, over what the two loads alone would give; chance 1"
            + marked,
            width=step * n_experts,
        ),
        description=theme.alt_description(
            f"Heatmap of the lift of pairs of {n_experts} experts, {label}",
            f"Values from {np.nanmin(values):.2f} to {np.nanmax(values):.2f}; chance 1"
            if np.isfinite(values).any()
            else "No pair was chosen",
        ),
    )


def routing_paths(
    counts: Int[np.ndarray, "step expert expert"], labels: Sequence[str], *, most: int = 200
) -> alt.LayerChart:
    """Where tokens go from one layer's first choice to the next one's: wider is more tokens.

    Args:
        counts: tokens from expert i of a layer to expert j of the next one drawn.
        labels: of the layers, one more than steps.
        most: flows drawn, the largest first.

    Returns:
        A chart with the selection "pick" of the fields layer, source and target.
    """
    counts = np.asarray(counts)
    n_steps, n_experts, _ = counts.shape
    order = np.argsort(-counts.ravel(), kind="stable")[:most]
    order = order[counts.ravel()[order] > 0][::-1]
    step, source, target = np.unravel_index(order, counts.shape)
    tokens = counts[step, source, target]
    total = max(int(counts[0].sum()), 1)
    data = {
        "layer": step,
        "source": source,
        "target": target,
        "from": theme.unit_names(labels, step, source),
        "to": theme.unit_names(labels, step + 1, target),
        "x": step,
        "x2": step + 1,
        "tokens": tokens,
        "share": tokens / total,
    }
    x = alt.X(
        "x:Q",
        title="layer",
        scale=alt.Scale(domain=[-0.2, n_steps + 0.2], nice=False, zero=False),
        axis=_layer_axis(labels),
    )
    y_scale = alt.Scale(domain=[n_experts - 0.5, -0.5], nice=False, zero=False)
    y_axis = alt.Axis(tickMinStep=1, format="d", grid=False)
    y = alt.Y("source:Q", title="expert (index in its layer)", scale=y_scale, axis=y_axis)
    top = float(tokens.max()) if len(tokens) else 1.0
    widths = alt.Scale(domain=[0, top], range=[0, 9], clamp=True)
    width = alt.Size("tokens:Q", scale=widths, legend=None)
    pick = alt.selection_point(name="pick", fields=["layer", "source", "target"], empty=False)
    flows = (
        alt.Chart(theme.embed(data))
        .mark_rule(color=theme.BLUE, opacity=0.4, strokeCap="round")
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="target:Q",
            size=width,
            tooltip=[
                alt.Tooltip("from:N"),
                alt.Tooltip("to:N"),
                alt.Tooltip("tokens:Q"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    arrived = np.concatenate([counts.sum(axis=2), counts[-1:].sum(axis=1)])  # [n_steps + 1, E]
    if np.count_nonzero(arrived) > MAX_NODES:
        drawn = np.zeros_like(arrived)
        drawn[step, source] = drawn[step + 1, target] = 1
        arrived = drawn
    place, expert = np.nonzero(arrived)
    nodes = {"x": place, "source": expert, "digit": expert}
    base = alt.Chart(theme.embed(nodes)).encode(x=x, y=y)
    layers = [
        flows.add_params(pick),
        base.mark_circle(size=150, color=theme.OKABE_ITO[7], opacity=1),
    ]
    if n_experts <= 32:
        text = base.mark_text(fontSize=9, color=theme.ON_LIGHT, tooltip=None)
        layers.append(text.encode(text="digit:N"))
    return theme.layered(*layers).properties(
        width=float(np.clip(90 * n_steps, 200, PLOT_WIDTH)),
        height=float(np.clip(26 * n_experts, 120, 420)),
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Paths through the layers",
            f"first choices; width: tokens (of {total}); the {len(tokens)} largest flows; an even "
            f"spread would put {total / n_experts**2:.2g} on each",
            width=PLOT_WIDTH,
        ),
        description=theme.alt_description(
            f"Flows of {total} tokens between the first choices of {n_steps + 1} layers",
            f"The largest carries {int(top)} tokens",
        ),
    )


def _spread(layer: np.ndarray, expert: np.ndarray, n_experts: int) -> np.ndarray:
    """Places on the layer axis at which a layer's experts stand side by side."""
    return layer + (expert - (n_experts - 1) / 2) / n_experts * 0.84


def _layer_axis(labels: Sequence[str]) -> alt.Axis:
    quoted = ",".join(f"'{label}'" for label in labels)
    every = max(1, -(-len(labels) * 16 // PLOT_WIDTH))
    return alt.Axis(
        values=list(range(0, len(labels), every)),
        labelExpr=f"[{quoted}][datum.value]",
        labelAngle=-90 if len(labels) > 16 else 0,
        grid=False,
    )


def _log_lift(lift: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(np.log2(lift), -2, 2)
