"""Figures of a prompt's routing summed over its tokens: load, pairs, paths."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.figures import marks, theme
from lens.figures.traces.lift import lift_columns, lift_layers, log_lift, rare
from lens.recipe.steps import remembered
from lens.words import counted, fixed, significant

PLOT_WIDTH = 680
# Experts of the paths figure; of more, only those that a drawn flow touches.
MAX_NODES = 2000
# A matrix of more experts is drawn as one triangle: both would be the same twice.
BOTH_TRIANGLES = 100


@remembered
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
        load: shares, which sum to 1 over a layer.
        low: below it lies 2.5 % of the loads of an expert chosen at random.
        high: above it lie as many.
        labels: of the layers.
        picked: the point to ring, as (layer, expert).
        interval: lowest and highest load that the sample leaves possible, for each expert.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    n_layers, n_experts = load.shape
    x = alt.X(
        "x:Q",
        title="layer; experts in order of index within each",
        scale=alt.Scale(domain=[-0.5, n_layers - 0.5], nice=False, zero=False),
        axis=marks.layer_number_axis(labels, PLOT_WIDTH),
    )
    y = alt.Y("value:Q", title="share of assignments", scale=alt.Scale(zero=True))
    data = _load_columns(load, low, high, labels)
    if interval is not None:
        at = data["layer"], data["expert"]
        data |= {"least": interval[0][at], "most": interval[1][at]}
    base = marks.chart(data, x=x, y=y)
    band = marks.chart({"value": [low], "high": [high]}, y=y, y2=alt.Y2("high:Q"))
    layers = [
        band.mark_rect(color=theme.BAND_GREY, opacity=0.25),
        marks.dashed_rule({"value": [1 / n_experts]}, y=y),
        *_load_dots(base, roomy=PLOT_WIDTH / n_layers / n_experts >= 6, whiskers=bool(interval)),
    ]
    if picked is not None:
        spot = _beside(np.array([picked[0]]), np.array([picked[1]]), n_experts)
        layers.append(marks.ring(base, {"x": spot, "value": [load[picked]]}))
    outside = int(np.sum((load < low) | (load > high)))
    whiskers = "" if interval is None else "; whiskers: 95 % interval of a layer's shares together"
    return marks.plot_figure(
        layers,
        (PLOT_WIDTH, 240),
        theme.title(
            "Load of every expert",
            f"share of (token, slot) assignments; dashed: even share 1/{n_experts}; grey: 95 % "
            f"band of choices at random ({fixed(low, 3)} to {fixed(high, 3)}); {outside} of "
            f"{load.size} "
            f"outside{whiskers}",
            width=PLOT_WIDTH,
        ),
        theme.alt_description(
            f"Load of {n_experts} experts in {n_layers} layers, from {fixed(load.min(), 3)} to "
            f"{fixed(load.max(), 3)}; even share {fixed(1 / n_experts, 3)}",
            f"{outside} of {load.size} lie outside the 95 % band {fixed(low, 3)} to "
            f"{fixed(high, 3)}",
        ),
    )


def _load_columns(
    load: np.ndarray, low: float, high: float, labels: Sequence[str]
) -> dict[str, np.ndarray]:
    n_experts = load.shape[1]
    layer, expert = marks.striking_cells(np.abs(load - 1 / n_experts), theme.MAX_MARKS // 2)
    values = load[layer, expert]
    return {
        "layer": layer,
        "expert": expert,
        "name": np.asarray(theme.unit_names(labels, layer, expert)),
        "x": _beside(layer, expert, n_experts),
        "value": values,
        "place": np.where(values > high, "above", np.where(values < low, "below", "within")),
    }


def _load_dots(base: alt.Chart, *, roomy: bool, whiskers: bool) -> list[alt.Chart]:
    """A dot an expert, its digit above it where there is room, its interval behind it."""
    tips: list[marks.Tip] = [
        ("name:N", "expert"),
        ("value:Q", "load", ".4f"),
        ("place:N", "against the band"),
    ]
    layers: list[alt.Chart] = []
    if whiskers:
        tips += [("least:Q", "interval from", ".4f"), ("most:Q", "to", ".4f")]
        bars = base.mark_rule(color=theme.MID_GREY, size=1, opacity=0.8, tooltip=None)
        layers.append(bars.encode(y=alt.Y("least:Q", title=None), y2=alt.Y2("most:Q")))
    scale = alt.Scale(
        domain=["above", "within", "below"], range=[theme.ORANGE, theme.BAND_GREY, theme.BLUE]
    )
    shapes = alt.Scale(domain=scale.domain, range=["triangle-up", "circle", "triangle-down"])
    points: alt.Chart = base.mark_point(size=46 if roomy else 14, opacity=1, filled=True)
    dots = points.encode(
        color=alt.Color("place:N", title="chance band", scale=scale),
        shape=alt.Shape("place:N", title="chance band", scale=shapes),  # also in grey
        tooltip=marks.tooltip(*tips),
    )
    layers.append(dots.add_params(marks.pick("layer", "expert")))
    if roomy:
        digits = base.mark_text(dy=-9, fontSize=9, tooltip=None)
        above = {"y": alt.Y("most:Q", title=None)} if whiskers else {}
        layers.append(digits.encode(text=alt.Text("expert:N"), **above))
    return layers


@remembered
def coselection_matrix(
    lift: Float[np.ndarray, "expert expert"],
    counts: Int[np.ndarray, "expert expert"] | None = None,
    *,
    label: str,
    q: Float[np.ndarray, "expert expert"] | None = None,
) -> alt.LayerChart:
    """Lift of pairs of experts: how often two are chosen together, against their loads alone.

    Args:
        lift: observed over expected; 1 is chance.
        counts: tokens that chose both, for the tooltip.
        label: the layer, or "all layers".
        q: p-values after Benjamini and Hochberg; pairs of at most 0.05 are outlined.

    Returns:
        A chart with the selection "pick" of the fields ea and eb.
    """
    n_experts = len(lift)
    a, b = _pairs(lift)
    values = lift[a, b]
    names = np.asarray([f"E{e}" for e in range(n_experts)])
    data = {"ea": a, "eb": b, "a": names[a], "b": names[b]} | lift_columns(values)
    tips: list[marks.Tip] = [("a:N", "expert"), ("b:N", "with expert"), ("lift:Q", "", ".3f")]
    if counts is not None:
        data["tokens"] = np.asarray(counts)[a, b]
        tips.append(("tokens:Q", "tokens"))
    outlined, marked = {}, ""
    if q is not None:
        data["q"] = q[a, b]
        tips.append(marks.Q_TIP)
        beyond = rare(q[a, b])
        outlined = {"a": data["a"][beyond], "b": data["b"][beyond]}
        found = np.count_nonzero(beyond) // (1 if n_experts > BOTH_TRIANGLES else 2)
        marked = f"; outlined: q ≤ 0.05 ({found})"
    step = theme.cell_step(n_experts, 360)
    base = marks.chart(data, **marks.square_axes(names.tolist(), "expert", 0))
    return marks.cell_figure(
        lift_layers(base, tips, ("ea", "eb"), step, outlined),
        (step, step),
        theme.title(
            f"Experts chosen together, {label}",
            "lift: tokens that chose both, over what the two loads alone would give; chance 1"
            + marked,
            width=step * n_experts,
        ),
        theme.alt_description(
            f"Heatmap of the lift of pairs of {n_experts} experts, {label}",
            f"Values from {fixed(np.nanmin(values), 2)} to {fixed(np.nanmax(values), 2)}; chance 1"
            if np.isfinite(values).any()
            else "No pair was chosen",
        ),
    )


def _pairs(lift: np.ndarray) -> marks.Pair:
    """The pairs that are drawn: all, one triangle, or the farthest from chance."""
    n_experts = len(lift)
    a, b = np.nonzero(~np.eye(n_experts, dtype=bool))
    if n_experts > BOTH_TRIANGLES:
        a, b = np.tril_indices(n_experts, -1)
    if len(a) > theme.MAX_MARKS:
        far = np.nan_to_num(np.abs(log_lift(lift[a, b])), nan=-1)
        keep = np.sort(np.argsort(-far)[: theme.MAX_MARKS])
        a, b = a[keep], b[keep]
    return a, b


@remembered
def routing_paths(
    counts: Int[np.ndarray, "step expert expert"], labels: Sequence[str], *, most: int = 200
) -> alt.LayerChart:
    """Flow of tokens from one layer's first choice to the next one's: wider is more tokens.

    Args:
        counts: tokens from expert i of a layer to expert j of the next one drawn.
        labels: of the layers, one more than steps.
        most: flows drawn, the largest first.

    Returns:
        A chart with the selection "pick" of the fields layer, source and target.
    """
    counts = np.asarray(counts)
    n_steps, n_experts, _ = counts.shape
    data = _flow_columns(counts, labels, most)
    total = max(int(counts[0].sum()), 1)
    x = alt.X(
        "x:Q",
        title="layer",
        scale=alt.Scale(domain=[-0.2, n_steps + 0.2], nice=False, zero=False),
        axis=marks.layer_number_axis(labels, PLOT_WIDTH),
    )
    y = alt.Y(
        "source:Q",
        title="expert (index in its layer)",
        scale=alt.Scale(domain=[n_experts - 0.5, -0.5], nice=False, zero=False),
        axis=alt.Axis(tickMinStep=1, format="d", grid=False),
    )
    drawn = len(data["tokens"])
    top = float(data["tokens"].max()) if drawn else 1.0
    widths = alt.Scale(domain=[0, top], range=[0, 9], clamp=True)
    tips = marks.tooltip(("from:N",), ("to:N",), ("tokens:Q",), ("share:Q", "", ".1%"))
    flows = marks.chart(data | {"share": data["tokens"] / total}, x=x, y=y).encode(
        x2=alt.X2("x2:Q"),
        y2=alt.Y2("target:Q"),
        size=alt.Size("tokens:Q", scale=widths, legend=None),
        tooltip=tips,
    )
    lines = flows.mark_rule(color=theme.BLUE, opacity=0.4, strokeCap="round")
    base = marks.chart(_node_columns(counts, data), x=x, y=y)
    layers = [
        lines.add_params(marks.pick("layer", "source", "target")),
        base.mark_circle(size=150, color=theme.OKABE_ITO[7], opacity=1),
    ]
    if n_experts <= 32:
        text = base.mark_text(fontSize=9, color=theme.ON_LIGHT, tooltip=None)
        layers.append(text.encode(text=alt.Text("digit:N")))
    return marks.plot_figure(
        layers,
        (float(np.clip(90 * n_steps, 200, PLOT_WIDTH)), float(np.clip(26 * n_experts, 120, 420))),
        theme.title(
            "Paths through the layers",
            f"first choices; width: tokens (of {total}); the {drawn} largest flows; an even "
            f"spread would put {significant(total / n_experts**2, 2)} on each",
            width=PLOT_WIDTH,
        ),
        theme.alt_description(
            f"Flows of {counted(total, 'token')} between the first choices of {n_steps + 1} layers",
            f"The largest carries {counted(int(top), 'token')}",
        ),
    )


def _flow_columns(counts: np.ndarray, labels: Sequence[str], most: int) -> dict[str, np.ndarray]:
    """The largest flows, the smallest of them first, so that large ones lie on top."""
    order = np.argsort(-counts.ravel(), kind="stable")[:most]
    order = order[counts.ravel()[order] > 0][::-1]
    step, source, target = np.unravel_index(order, counts.shape)
    return {
        "layer": step,
        "source": source,
        "target": target,
        "from": np.asarray(theme.unit_names(labels, step, source)),
        "to": np.asarray(theme.unit_names(labels, step + 1, target)),
        "x": step,
        "x2": step + 1,
        "tokens": counts[step, source, target],
    }


def _node_columns(counts: np.ndarray, flows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The experts that any token chose, or those that a drawn flow touches."""
    arrived = np.concatenate([counts.sum(axis=2), counts[-1:].sum(axis=1)])  # [n_steps + 1, E]
    if np.count_nonzero(arrived) > MAX_NODES:
        arrived = np.zeros_like(arrived)
        arrived[flows["layer"], flows["source"]] = 1
        arrived[flows["layer"] + 1, flows["target"]] = 1
    layer, expert = np.nonzero(arrived)
    return {"x": layer, "source": expert, "digit": expert}


def _beside(layer: np.ndarray, expert: np.ndarray, n_experts: int) -> np.ndarray:
    """Positions on the layer axis at which a layer's experts stand side by side."""
    return np.asarray(layer + (expert - (n_experts - 1) / 2) / n_experts * 0.84)
