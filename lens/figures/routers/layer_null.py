"""Figures of layers beside a reference: pairs that beat it, neighbours with null and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.figures.routers.layers import LayerSquare, adjacent_columns, adjacent_x
from lens.layers.pair_null import LayerNull, place_among_pairs
from lens.layers.references import BEATEN, REFERENCE_LABELS, Reference
from lens.layers.similarity import LAYER_METRICS
from lens.recipe.steps import remembered
from lens.words import counted, significant

if TYPE_CHECKING:
    from lens.layers.bootstrap import Intervals
    from lens.layers.similarity import AdjacentLayers
    from lens.layers.transitions import Transitions

PLOT_WIDTH = 640
LEVEL = 0.05
TRANSITION, CLASSIC = "transition (beyond the largest by chance)", "by |Δ| > 2σ alone"


@remembered
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
    """Every pair of layers in spreads of its null.

    Args:
        null: of all pairs.
        similarity: the values themselves, for the tooltips.
        order: rows in the order to draw them; None is layer order.
        labels: of the layers.
        picked: the cell to outline, as (la, lb).
        only_beyond: leave grey what doesn't beat the null.
        level: false discovery rate at which a pair beats it.

    Returns:
        A chart with the selection "pick" of the fields la and lb.
    """
    n_layers, metric = len(labels), LAYER_METRICS[null.metric].label
    place = place_among_pairs(similarity)
    square = LayerSquare(labels, order)

    def columns(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "value": similarity[a, b],
            "judged": null.similarity[a, b],
            "place": place[a, b],
            "z": null.z[a, b],
            "p": null.p[a, b],
            "q": null.q[a, b],
            "beyond": np.where(null.q[a, b] <= level, "yes", "no"),
        }

    z = null.z[marks.other_pairs(square.rows)]
    reach = float(max(np.nanmax(np.abs(z)), 4.0)) if len(z) else 4.0
    scale = theme.diverging((-reach, reach), 0.0, constant=2.0)
    colour = alt.Color("z:Q", title="z", scale=scale)
    tips: list[marks.Tip] = [
        ("value:Q", metric, ".4f"),
        ("place:Q", "more alike than so many of the other pairs", ".0%"),
        *([("judged:Q", f"{metric} of what is left", ".4f")] if null.directions else []),
        ("z:Q", "z", ".2f"),
        ("p:Q", "p", ".2g"),
        ("q:Q", "q (all pairs)", ".2g"),
    ]
    grey = alt.condition("datum.beyond === 'yes'", colour, alt.value(theme.BAND_GREY))
    layers = square.layers(columns, grey if only_beyond else colour, tips, picked)
    found = f"{null.found(level)} of {n_layers * (n_layers - 1) // 2} pairs"
    return marks.cell_figure(
        layers,
        (square.step, square.step),
        theme.title(
            f"Similarity of layers against {REFERENCE_LABELS[null.reference]}",
            f"z: {metric} less the mean of its null, over its spread; null: {null.method}, "
            f"{null.draws:,} draws, seed {null.seed}.",
            f"{found} are alike more than {BEATEN[null.reference]} (false discovery rate "
            f"{level:g})." + " Grey: not distinguishable from it." * only_beyond,
            width=square.step * n_layers,
        ),
        theme.alt_description(
            f"Heatmap of how far the similarity of {n_layers} layers lies beyond "
            f"{REFERENCE_LABELS[null.reference]}, pair by pair",
            f"{found} are beyond it at a false discovery rate of {level:g}",
        ),
    )


@remembered
def adjacent_against_chance(
    adjacent: AdjacentLayers,
    null: Float[np.ndarray, "draw pair"],
    found: Transitions,
    labels: Sequence[str],
    metric: str,
    intervals: Intervals | None = None,
    reference: Reference = "shared",
) -> alt.LayerChart:
    """Similarity of each layer with the next, its null band, its interval, and the transitions.

    Args:
        adjacent: pairs of neighbours.
        null: similarities of neighbours in drawn series, from `drawn_series`.
        found: the transitions.
        labels: of the layers.
        metric: id of a layer metric.
        intervals: of the similarities.
        reference: what was drawn.

    Returns:
        A chart with the selection "pick" of the fields la and lb.
    """
    name = LAYER_METRICS[metric].label
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    data = adjacent_columns(adjacent, labels) | {
        "value": adjacent.similarity,
        "low": low,
        "high": high,
        "change": found.change,
        "p": found.p,
        "key": np.where(found.found, TRANSITION, np.where(found.classic, CLASSIC, name)),
    }
    if intervals is not None:
        data |= {"from": intervals.low, "to": intervals.high}
    count = int(found.found.sum())
    rule = "Transitions need three layers."
    if np.isfinite(found.threshold):
        rule = (
            f"Transitions: |Δ| > 2σ and beyond {significant(found.threshold)}, which one drawn "
            f"series in twenty exceeds anywhere: {count}."
        )
    bars = " Bars: 95 % bootstrap interval over coordinates." if intervals is not None else ""
    return marks.plot_figure(
        _adjacent_layers(data, name, intervals is not None),
        (PLOT_WIDTH, 240),
        theme.title(
            "Similarity of adjacent layers",
            f"{name}; grey: 95 % of {found.draws:,} draws ({REFERENCE_LABELS[reference]}), "
            f"seed {found.seed}.{bars}",
            rule,
            width=PLOT_WIDTH,
        ),
        theme.alt_description(
            f"{name} of {counted(len(data['pair']), 'pair')} of adjacent layers, with chance bands",
            f"Transitions beyond the largest change of drawn series: {counted(count, 'pair')}",
        ),
    )


def _adjacent_layers(data: dict[str, Any], name: str, intervals: bool) -> list[alt.Chart]:
    """The null's band, intervals, a line through the similarities, and a point for each."""
    base = marks.chart(data, x=adjacent_x(data["pair"]))
    y = alt.Y("value:Q", title=name, scale=alt.Scale(zero=False, nice=True))
    key = alt.Scale(
        domain=[name, TRANSITION, CLASSIC], range=[theme.BLUE, theme.ORANGE, theme.MID_GREY]
    )
    legend = alt.Legend(orient="bottom", columns=2, labelLimit=360, symbolOpacity=1)
    tips: list[marks.Tip] = [
        ("pair:N", "layers"),
        ("value:Q", name, ".4f"),
        ("low:Q", "chance, 2.5 %", ".4f"),
        ("high:Q", "chance, 97.5 %", ".4f"),
        ("change:Q", "change from the pair before", ".4f"),
        ("p:Q", "p of the change, all pairs together", ".2g"),
    ]
    band = base.mark_rect(color=theme.BAND_GREY, opacity=0.45)
    layers = [band.encode(y=alt.Y("low:Q", title=name), y2=alt.Y2("high:Q"))]
    if intervals:
        tips += [("from:Q", "interval, low", ".4f"), ("to:Q", "interval, high", ".4f")]
        bars = base.mark_rule(color=theme.BLUE, opacity=0.6)
        layers.append(bars.encode(y=alt.Y("from:Q", title=name), y2=alt.Y2("to:Q")))
    shapes = alt.Scale(domain=key.domain, range=["circle", "diamond", "square"])
    points = base.mark_point(filled=True, size=64, opacity=1).encode(
        y=y,
        color=alt.Color("key:N", title=None, scale=key, legend=legend),
        shape=alt.Shape("key:N", title=None, scale=shapes, legend=legend),
        tooltip=marks.tooltip(*tips),
    )
    return [
        *layers,
        base.mark_line(color=theme.BLUE, strokeWidth=1.5).encode(y=y),
        points.add_params(marks.pick("la", "lb")),
    ]
