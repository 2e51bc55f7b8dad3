"""Layers against chance: which pairs are beyond it; neighbours with their null and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme
from lens.layers.similarity import LAYER_METRICS
from lens.words import significant

if TYPE_CHECKING:
    from lens.layers.bootstrap import Intervals
    from lens.layers.pair_null import LayerNull
    from lens.layers.similarity import AdjacentLayers
    from lens.layers.transitions import Transitions

PLOT_WIDTH = 640
LEVEL = 0.05
TRANSITION, CLASSIC = "transition (beyond the largest by chance)", "by |Δ| > 2σ alone"


def layer_null_heatmap(
    null: LayerNull,
    similarity: Float[np.ndarray, "layer layer"],
    order: Sequence[int] | None,
    labels: Sequence[str],
    picked: tuple[int, int] | None = None,
    *,
    only_beyond: bool = False,
    level: float = LEVEL,
) -> alt.LayerChart:
    """Every pair of layers in spreads of its own null.

    Args:
        null: of all pairs.
        similarity: the values themselves, for the tooltips.
        order: rows in the order to draw them; None is layer order.
        picked: the cell to outline, as (la, lb).
        only_beyond: leave grey what is not beyond chance at this false discovery rate.

    Returns:
        A chart with the selection "pick" of the fields la and lb.
    """
    n_layers = len(labels)
    rows = np.arange(n_layers) if order is None else np.asarray(order)
    shown = [labels[int(row)] for row in rows]
    a, b = (grid.ravel() for grid in np.meshgrid(rows, rows, indexing="ij"))
    a, b = a[a != b], b[a != b]
    names, z = np.asarray(labels), null.z[a, b]
    beyond = null.q[a, b] <= level
    data = {
        "la": a,
        "lb": b,
        "a": names[a],
        "b": names[b],
        "value": similarity[a, b],
        "z": z,
        "p": null.p[a, b],
        "q": null.q[a, b],
        "beyond": np.where(beyond, "yes", "no"),
    }
    reach = float(max(np.nanmax(np.abs(z)), 4.0)) if len(z) else 4.0
    step = theme.cell_step(n_layers, 480, high=64)
    pick = alt.selection_point(name="pick", fields=["la", "lb"], empty=False)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("b:O", title="layer", scale=alt.Scale(domain=shown), axis=theme.axis_labels(-90)),
        y=alt.Y("a:O", title="layer", scale=alt.Scale(domain=shown), axis=theme.axis_labels()),
    )
    scale = theme.diverging((-reach, reach), 0.0, constant=2.0)
    colour = alt.Color("z:Q", title="z", scale=scale)
    cells = base.mark_rect().encode(
        color=alt.condition("datum.beyond === 'yes'", colour, alt.value(theme.BAND_GREY))
        if only_beyond
        else colour,
        tooltip=[
            alt.Tooltip("a:N", title="layer"),
            alt.Tooltip("b:N", title="with layer"),
            alt.Tooltip("value:Q", title=LAYER_METRICS[null.metric].label, format=".4f"),
            alt.Tooltip("z:Q", title="z", format=".2f"),
            alt.Tooltip("p:Q", title="p", format=".2g"),
            alt.Tooltip("q:Q", title="q (all pairs)", format=".2g"),
        ],
    )
    layers = [cells.add_params(pick)]
    if picked is not None and picked[0] != picked[1]:
        ring = {"a": [labels[picked[0]]], "b": [labels[picked[1]]]}
        layers += theme.outlined(base, ring, step)
    count, pairs = null.found(level), n_layers * (n_layers - 1) // 2
    reading = (
        f"z: {LAYER_METRICS[null.metric].label} less the mean of its null, over its spread; "
        f"null: {null.method}, {null.draws:,} draws, seed {null.seed}."
    )
    grey = " Grey: not beyond chance." if only_beyond else ""
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(step),
        autosize=theme.NATURAL,
        title=theme.title(
            "Similarity of layers against chance",
            reading,
            f"{count} of {pairs} pairs beyond chance (false discovery rate {level:g}).{grey}",
            width=step * n_layers,
        ),
        description=theme.alt_description(
            f"Heatmap of how far the similarity of {n_layers} layers lies beyond chance, pair by "
            "pair",
            f"{count} of {pairs} pairs are beyond chance at a false discovery rate of {level:g}",
        ),
    )


def adjacent_against_chance(
    adjacent: AdjacentLayers,
    null: Float[np.ndarray, "draw pair"],
    found: Transitions,
    labels: Sequence[str],
    metric: str,
    intervals: Intervals | None = None,
) -> alt.LayerChart:
    """Similarity of each layer with the next, its null band, its interval, and the transitions.

    Returns:
        A chart with the selection "pick" of the fields la and lb.
    """
    label = LAYER_METRICS[metric].label
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    pairs = np.asarray(adjacent.pairs)
    names = [f"{labels[a]}→{labels[b]}" for a, b in pairs]
    kind = np.where(found.found, TRANSITION, np.where(found.classic, CLASSIC, f"{label}"))
    data = {
        "la": pairs[:, 0],
        "lb": pairs[:, 1],
        "pair": names,
        "value": adjacent.similarity,
        "low": low,
        "high": high,
        "change": found.change,
        "p": found.p,
        "key": kind,
    }
    if intervals is not None:
        data |= {"from": intervals.low, "to": intervals.high}
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "pair:O",
            title="pair of adjacent layers",
            sort=names,
            axis=theme.axis_labels(-90 if len(names) > 12 else 0),
        )
    )
    y = alt.Y("value:Q", title=label, scale=alt.Scale(zero=False, nice=True))
    key = alt.Scale(
        domain=[label, TRANSITION, CLASSIC], range=[theme.BLUE, theme.ORANGE, theme.MID_GREY]
    )
    legend = alt.Legend(orient="bottom", columns=2, labelLimit=360, symbolOpacity=1)
    tooltip = [
        alt.Tooltip("pair:N", title="layers"),
        alt.Tooltip("value:Q", title=label, format=".4f"),
        alt.Tooltip("low:Q", title="chance, 2.5 %", format=".4f"),
        alt.Tooltip("high:Q", title="chance, 97.5 %", format=".4f"),
        alt.Tooltip("change:Q", title="change from the pair before", format=".4f"),
        alt.Tooltip("p:Q", title="p of the change, all pairs together", format=".2g"),
    ]
    layers = [
        base.mark_rect(color=theme.BAND_GREY, opacity=0.45).encode(
            y=alt.Y("low:Q", title=label), y2="high:Q"
        )
    ]
    if intervals is not None:
        tooltip += [
            alt.Tooltip("from:Q", title="interval, low", format=".4f"),
            alt.Tooltip("to:Q", title="interval, high", format=".4f"),
        ]
        layers.append(
            base.mark_rule(color=theme.BLUE, opacity=0.6).encode(
                y=alt.Y("from:Q", title=label), y2="to:Q"
            )
        )
    pick = alt.selection_point(name="pick", fields=["la", "lb"], empty=False)
    layers += [
        base.mark_line(color=theme.BLUE, strokeWidth=1.5).encode(y=y),
        base.mark_point(filled=True, size=52, opacity=1)
        .encode(
            y=y, color=alt.Color("key:N", title=None, scale=key, legend=legend), tooltip=tooltip
        )
        .add_params(pick),
    ]
    count = int(found.found.sum())
    rule = "Transitions need three layers."
    if np.isfinite(found.threshold):
        rule = (
            f"Transitions: |Δ| > 2σ and beyond {significant(found.threshold)}, which one series of "
            f"unrelated layers in twenty exceeds anywhere: {count}."
        )
    bars = " Bars: 95 % bootstrap interval over coordinates." if intervals is not None else ""
    return theme.layered(*layers).properties(
        width=PLOT_WIDTH,
        height=240,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Similarity of adjacent layers",
            f"{label}; grey: 95 % of {found.draws:,} draws with every layer turned at random, seed "
            f"{found.seed}.{bars}",
            rule,
            width=PLOT_WIDTH,
        ),
        description=theme.alt_description(
            f"{label} of each of {len(pairs)} pairs of adjacent layers with its chance band",
            f"{count} pairs are transitions beyond the largest change of unrelated layers",
        ),
    )
