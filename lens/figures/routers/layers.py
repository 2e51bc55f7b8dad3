"""Figures of layers: who routes like whom, neighbour by neighbour, and pair by pair.

Layers are drawn by row of the router set (0-based); what is shown is their label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme
from lens.layers.similarity import LAYER_METRICS

if TYPE_CHECKING:
    from lens.layers.similarity import AdjacentLayers, LayerPair
    from lens.stats.chance import Chance

PLOT_WIDTH = 640
# The rule of earlier analyses, and what it finds where nothing is to be found.
CLASSIC_RULE = "classic rule |Δ| > 2σ"
CLASSIC_CAVEAT = "The classic rule also marks about 2.8 transitions among 64 unrelated layers."


def metric_scale(
    metric: str, chance: Chance | None = None, domain: tuple[float, float] | None = None
) -> alt.Scale:
    """The colour scale of a layer metric: the same for every router set.

    Diverging metrics have their chance level in the middle. The domain is the
    metric's whole range, with the values near chance spread out (square root, or
    symmetric log): they are the ones to tell apart.

    Args:
        domain: ends of the scale instead of the metric's own; then nothing is spread.
    """
    entry = LAYER_METRICS[metric]
    ends = domain or entry.domain
    if entry.diverging:
        middle = theme.chance_mean(chance)
        return theme.diverging(ends, middle or 0.0, constant=None if domain else 0.1)
    return theme.sequential(ends, bend=1.0 if domain else 0.5)


def layer_similarity_heatmap(
    similarity: Float[np.ndarray, "layer layer"],
    order: Sequence[int] | None,
    labels: Sequence[str],
    metric: str,
    chance: Chance | None = None,
    picked: tuple[int, int] | None = None,
    *,
    domain: tuple[float, float] | None = None,
) -> alt.LayerChart:
    """Similarity of every layer with every other, the layer with itself left out.

    Args:
        order: rows in the order to draw them (a tree's leaves); None is layer order.
        metric: id of a layer metric; it sets colours and their domain.
        chance: what two unrelated layers of this size give.
        picked: the cell to outline, as (la, lb).
        domain: ends of the colour scale, instead of the metric's fixed ones.

    Returns:
        A chart with the selection "pick" of the fields la and lb.
    """
    entry = LAYER_METRICS[metric]
    n_layers = len(labels)
    rows = np.arange(n_layers) if order is None else np.asarray(order)
    shown = [labels[int(row)] for row in rows]
    a, b = (grid.ravel() for grid in np.meshgrid(rows, rows, indexing="ij"))
    a, b = a[a != b], b[a != b]
    names = np.asarray(labels)
    data = {"la": a, "lb": b, "a": names[a], "b": names[b], "value": similarity[a, b]}
    step = theme.cell_step(n_layers, 480, high=64)
    pick = alt.selection_point(name="pick", fields=["la", "lb"], empty=False)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("b:O", title="layer", scale=alt.Scale(domain=shown), axis=theme.axis_labels(-90)),
        y=alt.Y("a:O", title="layer", scale=alt.Scale(domain=shown), axis=theme.axis_labels()),
    )
    scale = metric_scale(metric, chance, domain)
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=entry.label, scale=scale),
        tooltip=[
            alt.Tooltip("a:N", title="layer"),
            alt.Tooltip("b:N", title="with layer"),
            alt.Tooltip("value:Q", title=entry.label, format=".4f"),
        ],
    )
    layers = [cells.add_params(pick)]
    if picked is not None and picked[0] != picked[1]:
        ring = {"a": [labels[picked[0]]], "b": [labels[picked[1]]]}
        layers += theme.outlined(base, ring, step)
    in_order = "layer order" if order is None else "clustered order"
    reading = f"{entry.label}, {theme.chance_text(chance)}; the diagonal is left out; {in_order}."
    spread = "fitted to these data" if domain else "the same for every router set"
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(step),
        autosize=theme.NATURAL,
        title=theme.title(
            "Similarity of layers", reading, f"Colours: {spread}.", width=step * n_layers
        ),
        description=theme.alt_description(
            f"Heatmap of {entry.label} between {n_layers} layers in {in_order}",
            f"{theme.chance_text(chance)}",
            _range_text(similarity[a, b]),
        ),
    )


def layer_change(adjacent: AdjacentLayers, labels: Sequence[str]) -> alt.LayerChart:
    """L2 norm of the difference between each layer's router and the next one's."""
    base = _adjacent_base(adjacent, labels, adjacent.change_l2)
    y = alt.Y("value:Q", title="L2 norm of the change", scale=alt.Scale(zero=False))
    pick = alt.selection_point(name="pick", fields=["la", "lb"], empty=False)
    line = base.mark_line(color=theme.BLUE, strokeWidth=1.5).encode(y=y)
    points = base.mark_circle(size=46, opacity=1, color=theme.BLUE).encode(
        y=y, tooltip=_adjacent_tooltip("L2 norm of the change")
    )
    return theme.layered(line, points.add_params(pick)).properties(
        width=PLOT_WIDTH,
        height=180,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Change from layer to layer",
            "‖next router − this router‖ in units of the weights; expert by expert, so it also "
            "counts a mere renumbering of experts. No chance level: it grows with the norms.",
            width=PLOT_WIDTH,
        ),
        description=theme.alt_description(
            "L2 norm of the difference between adjacent layers' routers",
            _range_text(adjacent.change_l2),
        ),
    )


def pair_matrix(
    pair: LayerPair,
    labels_a: Sequence[str],
    labels_b: Sequence[str],
    *,
    chance: Chance | None = None,
) -> alt.LayerChart:
    """Cosine of every expert of one layer with every expert of another; the matches outlined.

    With more experts than a browser draws, the best matched ones and their partners.

    Args:
        chance: the mean matched cosine of two unrelated layers.

    Returns:
        A chart with the selection "pick" of the fields ea and eb.
    """
    n_experts, most = len(labels_a), theme.most_cells_a_side()
    partner = np.asarray(pair.partner)
    rows = np.sort(np.argsort(-np.asarray(pair.matched), kind="stable")[:most])
    columns = np.sort(partner[rows])
    ea, eb = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    values = pair.cosines[ea, eb]
    scale = theme.diverging((-1, 1), 0.0, constant=0.1)
    step = theme.cell_step(len(rows), 380)
    names_a, names_b = [labels_a[k] for k in rows], [labels_b[k] for k in columns]
    data = {
        "ea": ea,
        "eb": eb,
        "a": np.asarray(labels_a)[ea],
        "b": np.asarray(labels_b)[eb],
        "value": values,
        "ink": theme.ink(values, scale),
    }
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("b:O", title=None, sort=names_b, axis=theme.axis_labels(-90)),
        y=alt.Y("a:O", title=None, sort=names_a, axis=theme.axis_labels()),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title="cosine", scale=scale),
        tooltip=[
            alt.Tooltip("a:N", title="expert"),
            alt.Tooltip("b:N", title="with expert"),
            alt.Tooltip("value:Q", title="cosine", format=".4f"),
        ],
    )
    layers = [cells.add_params(alt.selection_point(name="pick", fields=["ea", "eb"], empty=False))]
    ring = {"a": names_a, "b": [labels_b[k] for k in partner[rows]]}
    layers += theme.outlined(base, ring, step)
    layers += theme.cell_digits(base, step)
    mean = float(np.mean(pair.matched))
    part = ""
    if len(rows) < n_experts:
        part = f" Drawn: the {len(rows)} best matched of {n_experts} experts; the table holds all."
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(step),
        autosize=theme.NATURAL,
        title=theme.title(
            f"Experts of {labels_a[0].split('·')[0]} against {labels_b[0].split('·')[0]}",
            f"cosine; outlined: the best one-to-one matching, mean {mean:.3f}; matched mean, "
            f"{theme.chance_text(chance)}.{part}",
            width=step * len(rows),
        ),
        description=theme.alt_description(
            f"Cosines of {len(rows)} by {len(columns)} experts of two layers",
            f"Mean over the matched pairs {mean:.3f}, {theme.chance_text(chance)}",
        ),
    )


def null_place(
    value: float, chance: Chance, *, name: str, samples: np.ndarray | None = None
) -> alt.LayerChart:
    """Where a value stands among what unrelated layers give.

    Args:
        name: what the value is, with its unit.
        samples: the draws under chance; their histogram is drawn when given, else
            only their 95 % band and mean.
    """
    x = alt.X("x:Q", title=name, scale=alt.Scale(zero=False, nice=True))
    layers: list[alt.Chart] = []
    if samples is not None and len(samples):
        counts, edges = np.histogram(samples, bins=min(40, max(8, len(samples) // 8)))
        bars = {"x": edges[:-1], "x2": edges[1:], "draws": counts}
        layers.append(
            alt.Chart(theme.embed(bars))
            .mark_rect(color=theme.BAND_GREY, opacity=0.7)
            .encode(x=x, x2="x2:Q", y=alt.Y("draws:Q", title="draws"), tooltip=["draws:Q"])
        )
    else:
        band = {"x": [chance.low], "x2": [chance.high]}
        layers.append(
            alt.Chart(theme.embed(band))
            .mark_rect(color=theme.BAND_GREY, opacity=0.5)
            .encode(x=x, x2="x2:Q")
        )
        mean = alt.Chart(theme.embed({"x": [chance.mean]}))
        layers.append(mean.mark_rule(color=theme.MID_GREY, strokeDash=[5, 4]).encode(x=x))
    mark = alt.Chart(theme.embed({"x": [value]})).encode(
        x=x, tooltip=[alt.Tooltip("x:Q", title=name, format=".4f")]
    )
    layers.append(mark.mark_rule(color=theme.ORANGE, strokeWidth=3))
    inside = chance.low <= value <= chance.high
    verdict = "within" if inside else ("above" if value > chance.high else "below")
    return theme.layered(*layers).properties(
        width=420,
        height=90 if samples is not None else 40,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            f"{name}: {value:.4f}",
            f"orange: this value, {verdict} the band; grey: {theme.chance_text(chance)}, "
            f"{chance.draws} draws",
            width=420,
        ),
        description=theme.alt_description(
            f"{name} is {value:.4f}, {verdict} what chance gives", theme.chance_text(chance)
        ),
    )


def _adjacent_base(
    adjacent: AdjacentLayers, labels: Sequence[str], values: np.ndarray
) -> alt.Chart:
    pairs = np.asarray(adjacent.pairs)
    names = [f"{labels[a]}→{labels[b]}" for a, b in pairs]
    data = {
        "la": pairs[:, 0],
        "lb": pairs[:, 1],
        "pair": names,
        "value": values,
        "classic": np.asarray(adjacent.classic_transitions, dtype=bool),
    }
    return alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "pair:O",
            title="pair of adjacent layers",
            sort=names,
            axis=theme.axis_labels(-90 if len(names) > 12 else 0),
        )
    )


def _adjacent_tooltip(name: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("pair:N", title="layers"),
        alt.Tooltip("value:Q", title=name, format=".4f"),
        alt.Tooltip("classic:N", title=CLASSIC_RULE),
    ]


def _key(scale: alt.Scale) -> alt.Color:
    return alt.Color(
        "key:N",
        title=None,
        scale=scale,
        legend=alt.Legend(
            orient="bottom", columns=2, labelLimit=360, symbolType="square", symbolOpacity=1
        ),
    )


def _key_of(value: str) -> str:
    return f"datum.classic ? '{CLASSIC_RULE}' : '{value}'"


def _range_text(values: np.ndarray) -> str:
    if not len(values):
        return ""
    return f"Values from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}"
