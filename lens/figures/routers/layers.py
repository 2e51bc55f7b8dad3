"""Figures of layers: how alike they route, neighbour by neighbour, and pair by pair.

Layers are drawn by row of the router set (0-based); what is shown is their label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.layers.similarity import LAYER_METRICS
from lens.recipe.steps import remembered
from lens.words import fixed, significant

if TYPE_CHECKING:
    from lens.layers.similarity import AdjacentLayers, LayerPair
    from lens.stats.chance import Chance

PLOT_WIDTH = 640
# The rule of earlier analyses.
CLASSIC_RULE = "classic rule |Δ| > 2σ"


def metric_scale(
    metric: str, chance: Chance | None = None, domain: tuple[float, float] | None = None
) -> alt.Scale:
    """The colour scale of a layer metric: the same for every router set.

    Diverging metrics have their chance level in the middle. The domain is the
    metric's whole range, with the values near chance spread out (square root, or
    symmetric log): they are the ones to tell apart.

    Args:
        metric: id of a layer metric.
        chance: what two unrelated layers give.
        domain: limits of the scale instead of the metric's own; then nothing is spread.
    """
    entry = LAYER_METRICS[metric]
    limits = domain or entry.domain
    if entry.diverging:
        middle = theme.chance_mean(chance)
        return theme.diverging(limits, middle or 0.0, constant=None if domain else 0.1)
    return theme.sequential(limits, bend=1.0 if domain else 0.5)


@dataclass(frozen=True)
class LayerSquare:
    """Cells of every pair of two different layers.

    Attributes:
        labels: of the layers.
        order: rows in the order to draw them; None is layer order.
    """

    labels: Sequence[str]
    order: Sequence[int] | None

    @property
    def rows(self) -> np.ndarray:
        """Rows in the order of drawing."""
        return np.arange(len(self.labels)) if self.order is None else np.asarray(self.order)

    @property
    def step(self) -> float:
        """Side of a cell in pixels."""
        return theme.cell_step(len(self.labels), 480, high=64)

    def layers(
        self,
        columns: Callable[[np.ndarray, np.ndarray], dict[str, Any]],
        colour: Any,
        tips: Sequence[marks.Tip],
        picked: tuple[int, int] | None,
    ) -> list[alt.Chart]:
        """The cells, one of them outlined.

        Args:
            columns: values of the pairs of these rows.
            colour: of the cells.
            tips: lines of the tooltip below the names of the layers.
            picked: the cell to outline, as (la, lb).
        """
        a, b = marks.other_pairs(self.rows)
        names, shown = np.asarray(self.labels), [self.labels[int(row)] for row in self.rows]
        data = {"la": a, "lb": b, "a": names[a], "b": names[b]} | columns(a, b)
        base = marks.chart(data, **marks.square_axes(shown, "layer", -90))
        named: list[marks.Tip] = [("a:N", "layer"), ("b:N", "with layer"), *tips]
        layers = [marks.cells(base, colour, named, "la", "lb")]
        if picked is not None and picked[0] != picked[1]:
            ring = {"a": [self.labels[picked[0]]], "b": [self.labels[picked[1]]]}
            layers += marks.outlined(base, ring, self.step)
        return layers


@remembered
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
        similarity: of every pair.
        order: rows in the order to draw them (a tree's leaves); None is layer order.
        labels: of the layers.
        metric: id of a layer metric; it sets colours and their domain.
        chance: what two unrelated layers of this size give.
        picked: the cell to outline, as (la, lb).
        domain: limits of the colour scale, instead of the metric's fixed ones.

    Returns:
        A chart with the selection "pick" of the fields la and lb.
    """
    name, n_layers = LAYER_METRICS[metric].label, len(labels)
    square = LayerSquare(labels, order)
    colour = alt.Color("value:Q", title=name, scale=metric_scale(metric, chance, domain))
    tips: list[marks.Tip] = [("value:Q", name, ".4f")]
    layers = square.layers(lambda a, b: {"value": similarity[a, b]}, colour, tips, picked)
    in_order = "layer order" if order is None else "clustered order"
    reading = f"{name}, {theme.chance_text(chance)}; the diagonal is left out; {in_order}."
    spread = "fitted to these data" if domain else "the same for every router set"
    return marks.cell_figure(
        layers,
        (square.step, square.step),
        theme.title(
            "Similarity of layers", reading, f"Colours: {spread}.", width=square.step * n_layers
        ),
        theme.alt_description(
            f"Heatmap of {name} between {n_layers} layers in {in_order}",
            f"{theme.chance_text(chance)}",
            _range_text(similarity[marks.other_pairs(square.rows)]),
        ),
    )


@remembered
def layer_change(adjacent: AdjacentLayers, labels: Sequence[str]) -> alt.LayerChart:
    """L2 norm of the difference between each layer's router and the next one's.

    Args:
        adjacent: pairs of neighbours.
        labels: of the layers.

    Returns:
        A chart with the selection "pick" of the fields la and lb.
    """
    columns = adjacent_columns(adjacent, labels)
    data = columns | {
        "value": adjacent.change_l2,
        "classic": np.asarray(adjacent.classic_transitions, dtype=bool),
    }
    y = alt.Y("value:Q", title="L2 norm of the change", scale=alt.Scale(zero=False))
    base = marks.chart(data, x=adjacent_x(columns["pair"]), y=y)
    tips = marks.tooltip(
        ("pair:N", "layers"),
        ("value:Q", "L2 norm of the change", ".4f"),
        ("classic:N", CLASSIC_RULE),
    )
    points = base.mark_circle(size=46, opacity=1, color=theme.BLUE).encode(tooltip=tips)
    return marks.plot_figure(
        [
            base.mark_line(color=theme.BLUE, strokeWidth=1.5),
            points.add_params(marks.pick("la", "lb")),
        ],
        (PLOT_WIDTH, 180),
        theme.title(
            "Change from layer to layer",
            "‖next router − this router‖ in units of the weights; expert by expert, so it also "
            "counts a mere renumbering of experts. No chance level: it grows with the norms.",
            width=PLOT_WIDTH,
        ),
        theme.alt_description(
            "L2 norm of the difference between adjacent layers' routers",
            _range_text(adjacent.change_l2),
        ),
    )


def adjacent_columns(adjacent: AdjacentLayers, labels: Sequence[str]) -> dict[str, Any]:
    """Rows and names of each pair of neighbours."""
    pairs = np.asarray(adjacent.pairs)
    names = [f"{labels[a]}→{labels[b]}" for a, b in pairs]
    return {"la": pairs[:, 0], "lb": pairs[:, 1], "pair": names}


def adjacent_x(names: Sequence[str]) -> alt.X:
    """Pairs of neighbours across."""
    axis = marks.axis_labels(-90 if len(names) > 12 else 0)
    return alt.X("pair:O", title="pair of adjacent layers", sort=list(names), axis=axis)


@remembered
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
        pair: the cosines and the best matching.
        labels_a: of the experts of the one layer.
        labels_b: of those of the other.
        chance: the mean matched cosine of two unrelated layers.

    Returns:
        A chart with the selection "pick" of the fields ea and eb.
    """
    n_experts, partner = len(labels_a), np.asarray(pair.partner)
    best = np.argsort(-np.asarray(pair.matched), kind="stable")
    rows = np.sort(best[: theme.most_cells_a_side()])
    columns = np.sort(partner[rows])
    ea, eb = (side.ravel() for side in np.meshgrid(rows, columns, indexing="ij"))
    values = pair.cosines[ea, eb]
    scale = theme.diverging((-1, 1), 0.0, constant=0.1)
    names_a, names_b = [labels_a[k] for k in rows], [labels_b[k] for k in columns]
    data = {
        "ea": ea,
        "eb": eb,
        "a": np.asarray(labels_a)[ea],
        "b": np.asarray(labels_b)[eb],
        "value": values,
        "ink": theme.ink(values, scale),
    }
    base = marks.chart(
        data,
        x=alt.X("b:O", title=None, sort=names_b, axis=marks.axis_labels(-90)),
        y=alt.Y("a:O", title=None, sort=names_a, axis=marks.axis_labels()),
    )
    step = theme.cell_step(len(rows), 380)
    colour = alt.Color("value:Q", title="cosine", scale=scale)
    tips: list[marks.Tip] = [
        ("a:N", "expert"),
        ("b:N", "with expert"),
        ("value:Q", "cosine", ".4f"),
    ]
    matched = {"a": names_a, "b": [labels_b[k] for k in partner[rows]]}
    layers = [
        marks.cells(base, colour, tips, "ea", "eb"),
        *marks.outlined(base, matched, step, chosen=False),
        *marks.cell_digits(base, step),
    ]
    mean = float(np.mean(pair.matched))
    part = ""
    if len(rows) < n_experts:
        part = f" Drawn: the {len(rows)} best matched of {n_experts} experts; the table holds all."
    return marks.cell_figure(
        layers,
        (step, step),
        theme.title(
            f"Experts of {labels_a[0].split('·')[0]} against {labels_b[0].split('·')[0]}",
            f"cosine; outlined: the best one-to-one matching, mean {fixed(mean, 3)}; matched mean, "
            f"{theme.chance_text(chance)}.{part}",
            width=step * len(rows),
        ),
        theme.alt_description(
            f"Cosines of {len(rows)} by {len(columns)} experts of two layers",
            f"Mean over the matched pairs {fixed(mean, 3)}, {theme.chance_text(chance)}",
        ),
    )


@remembered
def value_against_null(
    value: float, chance: Chance, *, name: str, samples: np.ndarray | None = None
) -> alt.LayerChart:
    """A value of layers beside draws of what it has to beat.

    Args:
        value: what was measured.
        chance: of the draws; its method says what was drawn.
        name: what the value is, with its unit.
        samples: the draws under chance; their histogram is drawn when given, else
            only their 95 % band and mean.
    """
    x = alt.X("x:Q", title=name, scale=alt.Scale(zero=False, nice=True))
    if samples is not None and len(samples):
        counts, edges = np.histogram(samples, bins=min(40, max(8, len(samples) // 8)))
        data = {"x": edges[:-1], "x2": edges[1:], "draws": counts}
        bars = marks.chart(data, x=x, x2=alt.X2("x2:Q"), y=alt.Y("draws:Q", title="draws"))
        layers = [bars.mark_rect(color=theme.BAND_GREY, opacity=0.7).encode(tooltip=["draws:Q"])]
    else:
        band = marks.chart({"x": [chance.low], "x2": [chance.high]}, x=x, x2=alt.X2("x2:Q"))
        layers = [
            band.mark_rect(color=theme.BAND_GREY, opacity=0.5),
            marks.dashed_rule({"x": [chance.mean]}, x=x),
        ]
    mark = marks.chart({"x": [value]}, x=x, tooltip=marks.tooltip(("x:Q", name, ".4f")))
    layers.append(mark.mark_rule(color=theme.ORANGE, strokeWidth=3))
    inside = chance.low <= value <= chance.high
    verdict = "within" if inside else ("above" if value > chance.high else "below")
    return marks.plot_figure(
        layers,
        (420, 90 if samples is not None else 40),
        theme.title(
            f"{name}: {fixed(value, 4)}",
            f"orange: this value, {verdict} the band; grey: "
            f"{theme.chance_text(chance, chance.method)}, {chance.draws} draws",
            width=420,
        ),
        theme.alt_description(
            f"{name} is {fixed(value, 4)}, {verdict} what chance gives",
            theme.chance_text(chance, chance.method),
        ),
    )


def _range_text(values: np.ndarray) -> str:
    if not len(values):
        return ""
    return f"Values from {significant(np.nanmin(values))} to {significant(np.nanmax(values))}"
