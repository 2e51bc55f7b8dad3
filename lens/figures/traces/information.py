"""Figures of a trace's statistics beside their nulls: by layer, and predicted loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.recipe.steps import remembered
from lens.words import significant

if TYPE_CHECKING:
    from lens.stats.permutation_tests import AgainstChance

PLOT_WIDTH = 680
SHADES = (theme.BLUE, theme.ORANGE, *theme.OKABE_ITO[2:])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke")
RARE = "datum.q !== null && datum.q <= 0.05"


@remembered
def chance_lines(
    tests: Mapping[str, AgainstChance],
    labels: Sequence[str],
    *,
    title: str,
    unit: str,
    width: float = PLOT_WIDTH,
) -> alt.LayerChart:
    """One line per named quantity through the layers, each with the band of its null.

    Filled points are those whose q is at most 0.05.

    Args:
        tests: name to value and null.
        labels: of the layers.
        title: of the figure.
        unit: of the values.
        width: of the figure; the lines of its title are broken for it.
    """
    first = next(iter(tests.values()))
    found = ", ".join(f"{name} {test.found()}" for name, test in tests.items())
    means = ", ".join(
        f"{name} {significant(np.nanmean(test.value))}, by chance "
        f"{significant(np.nanmean(test.mean))}"
        for name, test in tests.items()
    )
    return marks.plot_figure(
        _chance_layers(tests, labels, unit),
        (width, 220),
        theme.title(
            title,
            f"{unit}; dashed, shaded: mean and 95 % band by chance ({first.draws:,} draws, seed "
            f"{first.seed}); filled: q ≤ 0.05, layers: {found}",
            width=0.9 * width,
        ),
        theme.alt_description(
            f"{title} by layer",
            f"Means: {means}",
            f"Layers of {len(labels)} beyond chance at q ≤ 0.05: {found}",
        ),
    )


def _chance_layers(
    tests: Mapping[str, AgainstChance], labels: Sequence[str], unit: str
) -> list[alt.Chart]:
    names = list(tests)
    scale = alt.Scale(domain=names, range=list(SHADES[: len(names)]))
    legend = alt.Legend(orient="bottom", labelLimit=360, symbolOpacity=1)
    x = alt.X(
        "x:Q",
        title="layer",
        scale=alt.Scale(domain=[-0.4, len(labels) - 0.6], nice=False, zero=False),
        axis=marks.layer_number_axis(labels, PLOT_WIDTH),
    )
    value, low, mean = (
        alt.Y(field, title=unit, scale=alt.Scale(zero=False))
        for field in ("value:Q", "low:Q", "mean:Q")
    )
    colour = alt.Color("name:N", title=None, scale=scale, legend=legend)
    data = _chance_columns(tests, labels)
    base = marks.chart(data, x=x, y=value, color=colour)
    null = marks.chart(_band_columns(data, len(labels)), x=x, color=colour)
    tips = marks.tooltip(
        ("layer:N",),
        ("name:N", "quantity"),
        ("value:Q", "", ".4f"),
        ("mean:Q", "chance, mean", ".4f"),
        ("low:Q", "chance, 95 % from", ".4f"),
        ("high:Q", "to", ".4f"),
        marks.Q_TIP,
    )
    kinds = alt.Scale(domain=names, range=list(SHAPES[: len(names)]))
    shape = alt.Shape("name:N", title=None, scale=kinds, legend=legend)
    hollow = base.transform_filter(f"!({RARE})").mark_point(
        size=40, filled=False, strokeWidth=1.4, aria=False
    )
    # Either may be empty, and an empty group has no name to be read aloud; the line has them all.
    filled = base.transform_filter(RARE).mark_point(size=52, filled=True, opacity=1, aria=False)
    return [
        base.mark_line(strokeWidth=1.4),
        null.mark_area(fillOpacity=0.2, tooltip=None).encode(y=low, y2=alt.Y2("high:Q")),
        null.mark_line(strokeDash=[5, 4], strokeWidth=1.2).encode(y=mean),
        hollow.encode(tooltip=tips, shape=shape),
        filled.encode(tooltip=tips, shape=shape),
    ]


def _chance_columns(
    tests: Mapping[str, AgainstChance], labels: Sequence[str]
) -> dict[str, np.ndarray]:
    """A row for each layer of each quantity, quantity by quantity."""
    every = list(tests.values())
    return {
        "x": np.tile(np.arange(len(labels)), len(tests)),
        "layer": np.asarray(list(labels) * len(tests)),
        "name": np.repeat(list(tests), len(labels)),
        "value": np.concatenate([test.value for test in every]),
        "mean": np.concatenate([test.mean for test in every]),
        "low": np.concatenate([test.low for test in every]),
        "high": np.concatenate([test.high for test in every]),
        "q": np.concatenate([test.q for test in every]),
    }


def _band_columns(data: Mapping[str, np.ndarray], n_layers: int) -> dict[str, np.ndarray]:
    """The null's rows; a band needs two positions, so that one layer gets a short one."""
    shifts = (-0.3, 0.3) if n_layers == 1 else (0,)
    return {
        "x": np.concatenate([data["x"] + shift for shift in shifts]),
        **{key: np.tile(data[key], len(shifts)) for key in ("name", "low", "high", "mean")},
    }


@remembered
def predicted_load(
    measured: Float[np.ndarray, "layer expert"],
    predictions: Mapping[str, Float[np.ndarray, "layer expert"]],
    labels: Sequence[str],
    *,
    note: str = "",
) -> alt.LayerChart:
    """Measured load of every expert against what was predicted; on the dashed line they agree.

    Args:
        measured: shares, which sum to 1 over a layer.
        predictions: name to predicted loads; all are drawn.
        labels: of the layers.
        note: for the subtitle: how near they come, and chance.
    """
    n_layers, n_experts = measured.shape
    names = list(predictions)
    top = 1.04 * max(float(measured.max()), *(float(predictions[n].max()) for n in names))
    scale = alt.Scale(domain=[0, top], nice=False)
    base = marks.chart(
        _prediction_columns(measured, predictions, labels),
        x=alt.X("predicted:Q", title="predicted load", scale=scale),
        y=alt.Y("measured:Q", title="measured load", scale=scale),
    )
    x, y = alt.X("a:Q", scale=scale), alt.Y("a:Q", scale=scale)
    even = marks.chart({"v": [1 / n_experts]}, y=alt.Y("v:Q", scale=scale))
    points = base.mark_point(size=40, filled=True, opacity=0.8).encode(
        color=alt.Color(
            "by:N",
            title="predicted from",
            scale=alt.Scale(domain=names, range=list(SHADES[: len(names)])),
            legend=alt.Legend(orient="bottom", labelLimit=320, columns=1),
        ),
        shape=alt.Shape("by:N", scale=alt.Scale(domain=names), legend=None),
        tooltip=marks.tooltip(
            ("name:N", "expert"),
            ("by:N", "predicted from"),
            ("predicted:Q", "", ".4f"),
            ("measured:Q", "", ".4f"),
        ),
    )
    return marks.plot_figure(
        [
            marks.dashed_rule(
                {"a": [0.0], "b": [top]}, x=x, y=y, x2=alt.X2("b:Q"), y2=alt.Y2("b:Q")
            ),
            even.mark_rule(color=theme.BAND_GREY, opacity=0.5),
            points.add_params(marks.pick("layer", "expert")),
        ],
        (380, 340),
        theme.title(
            "Predicted and measured load",
            f"share of assignments; dashed: equal; grey: even use 1/{n_experts}",
            note,
            width=420,
        ),
        theme.alt_description(
            f"Measured against predicted load of {n_experts} experts in {n_layers} layers", note
        ),
        flexible=False,
    )


def _prediction_columns(
    measured: np.ndarray, predictions: Mapping[str, np.ndarray], labels: Sequence[str]
) -> theme.Columns:
    """A row for each expert and prediction; the least evenly used experts where there are many."""
    count = len(predictions)
    distance = np.abs(measured - 1 / measured.shape[1])
    layer, expert = marks.striking_cells(distance, theme.MAX_MARKS // max(2 * count, 1))
    return {
        "layer": np.tile(layer, count),
        "expert": np.tile(expert, count),
        "name": theme.unit_names(labels, layer, expert) * count,
        "by": np.repeat(list(predictions), len(layer)),
        "predicted": np.concatenate([values[layer, expert] for values in predictions.values()]),
        "measured": np.tile(measured[layer, expert], count),
    }
