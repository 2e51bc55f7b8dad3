"""Figures of a trace's statistics beside their nulls: by layer, and predicted loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme

PLOT_WIDTH = 680
SHADES = (theme.BLUE, theme.ORANGE, *theme.OKABE_ITO[2:])


class Tested(Protocol):
    """What `chance_lines` draws: see `lens.stats.permutation_tests.AgainstChance`."""

    @property
    def value(self) -> np.ndarray: ...
    @property
    def mean(self) -> np.ndarray: ...
    @property
    def low(self) -> np.ndarray: ...
    @property
    def high(self) -> np.ndarray: ...
    @property
    def q(self) -> np.ndarray: ...
    @property
    def draws(self) -> int: ...
    @property
    def seed(self) -> int: ...


def chance_lines(
    tests: Mapping[str, Tested],
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
    names, at = list(tests), np.arange(len(labels))
    shades = list(SHADES[: len(names)])
    columns = ("value", "mean", "low", "high", "q")
    data: dict[str, Any] = {
        "x": np.tile(at, len(names)),
        "layer": list(labels) * len(names),
        "name": np.repeat(names, len(labels)),
    }
    for column in columns:
        data[column] = np.concatenate([np.asarray(getattr(tests[n], column)) for n in names])
    # A band needs two places; one layer gets a short one.
    reach = 0.3 if len(labels) == 1 else 0.0
    sides = [data["x"] - reach, data["x"] + reach] if reach else [data["x"]]
    band = {
        "x": np.concatenate(sides),
        **{k: np.tile(data[k], len(sides)) for k in ("name", "low", "high", "mean")},
    }
    quoted = ",".join(f"'{label}'" for label in labels)
    every = max(1, -(-len(labels) * 16 // PLOT_WIDTH))
    x = alt.X(
        "x:Q",
        title="layer",
        scale=alt.Scale(domain=[-0.4, len(labels) - 0.6], nice=False, zero=False),
        axis=alt.Axis(
            values=at[::every].tolist(),
            labelExpr=f"[{quoted}][datum.value]",
            labelAngle=-90 if len(labels) > 16 else 0,
            grid=False,
        ),
    )
    y_scale = alt.Scale(zero=False)
    colour = alt.Color(
        "name:N",
        title=None,
        scale=alt.Scale(domain=names, range=shades),
        legend=alt.Legend(orient="bottom", labelLimit=360, symbolType="circle", symbolOpacity=1),
    )
    base = alt.Chart(theme.embed(data)).encode(
        x=x, y=alt.Y("value:Q", title=unit, scale=y_scale), color=colour
    )
    null = alt.Chart(theme.embed(band)).encode(x=x, color=colour)
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("name:N", title="quantity"),
        alt.Tooltip("value:Q", format=".4f"),
        alt.Tooltip("mean:Q", title="chance, mean", format=".4f"),
        alt.Tooltip("low:Q", title="chance, 95 % from", format=".4f"),
        alt.Tooltip("high:Q", title="to", format=".4f"),
        alt.Tooltip("q:Q", title="q (Benjamini–Hochberg)", format=".2g"),
    ]
    y_of = lambda name: alt.Y(name, title=unit, scale=y_scale)  # noqa: E731
    rare = base.transform_filter("datum.q !== null && datum.q <= 0.05")
    other = base.transform_filter("!(datum.q !== null && datum.q <= 0.05)")
    layers = [
        base.mark_line(strokeWidth=1.4),
        null.mark_area(fillOpacity=0.2, tooltip=None).encode(y=y_of("low:Q"), y2="high:Q"),
        null.mark_line(strokeDash=[5, 4], strokeWidth=1.2).encode(y=y_of("mean:Q")),
        other.mark_point(size=40, filled=False, strokeWidth=1.4).encode(tooltip=tooltip),
        rare.mark_circle(size=52, opacity=1).encode(tooltip=tooltip),
    ]
    first = tests[names[0]]
    found = ", ".join(f"{n} {int(np.sum(np.nan_to_num(tests[n].q, nan=1) <= 0.05))}" for n in names)
    return theme.layered(*layers).properties(
        width=width,
        height=220,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            title,
            f"{unit}; dashed, shaded: mean and 95 % band by chance ({first.draws:,} draws, seed "
            f"{first.seed}); filled: q ≤ 0.05, layers: {found}",
            width=0.9 * width,
        ),
        description=theme.alt_description(
            f"{title} by layer",
            "Means: "
            + ", ".join(
                f"{n} {np.nanmean(tests[n].value):.3g}, by chance {np.nanmean(tests[n].mean):.3g}"
                for n in names
            ),
            f"Layers of {len(labels)} beyond chance at q ≤ 0.05: {found}",
        ),
    )


def predicted_load(
    measured: Float[np.ndarray, "layer expert"],
    predictions: Mapping[str, Float[np.ndarray, "layer expert"]],
    labels: Sequence[str],
    *,
    note: str = "",
) -> alt.LayerChart:
    """Measured load of every expert against what was predicted; on the dashed line they agree.

    Args:
        predictions: name to predicted loads; all are drawn.
        note: for the subtitle: how near they come, and chance.
    """
    n_layers, n_experts = measured.shape
    names = list(predictions)
    layer, expert = (grid.ravel() for grid in np.indices(measured.shape))
    most = theme.MAX_MARKS // max(2 * len(names), 1)
    if len(layer) > most:
        keep = np.sort(np.argsort(-np.abs(measured - 1 / n_experts).ravel())[:most])
        layer, expert = layer[keep], expert[keep]
    unit = theme.unit_names(labels, layer, expert)
    data = {
        "layer": np.tile(layer, len(names)),
        "expert": np.tile(expert, len(names)),
        "name": unit * len(names),
        "by": np.repeat(names, len(layer)),
        "predicted": np.concatenate([predictions[n][layer, expert] for n in names]),
        "measured": np.tile(measured[layer, expert], len(names)),
    }
    top = 1.04 * max(float(measured.max()), *(float(predictions[n].max()) for n in names))
    scale = alt.Scale(domain=[0, top], nice=False)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("predicted:Q", title="predicted load", scale=scale),
        y=alt.Y("measured:Q", title="measured load", scale=scale),
    )
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    line = alt.Chart(theme.embed({"a": [0.0], "b": [top]}))
    even = alt.Chart(theme.embed({"v": [1 / n_experts]}))
    return theme.layered(
        line.mark_rule(strokeDash=[5, 4], color=theme.MID_GREY).encode(
            x=alt.X("a:Q", scale=scale), y=alt.Y("a:Q", scale=scale), x2="b:Q", y2="b:Q"
        ),
        even.mark_rule(color=theme.BAND_GREY, opacity=0.5).encode(y=alt.Y("v:Q", scale=scale)),
        base.mark_point(size=40, filled=True, opacity=0.8)
        .encode(
            color=alt.Color(
                "by:N",
                title="predicted from",
                scale=alt.Scale(domain=names, range=list(SHADES[: len(names)])),
                legend=alt.Legend(orient="bottom", labelLimit=320, columns=1),
            ),
            shape=alt.Shape("by:N", scale=alt.Scale(domain=names), legend=None),
            tooltip=[
                alt.Tooltip("name:N", title="expert"),
                alt.Tooltip("by:N", title="predicted from"),
                alt.Tooltip("predicted:Q", format=".4f"),
                alt.Tooltip("measured:Q", format=".4f"),
            ],
        )
        .add_params(pick),
    ).properties(
        width=380,
        height=340,
        autosize=theme.NATURAL,
        title=theme.title(
            "Predicted and measured load",
            f"share of assignments; dashed: equal; grey: even use 1/{n_experts}",
            note,
            width=420,
        ),
        description=theme.alt_description(
            f"Measured against predicted load of {n_experts} experts in {n_layers} layers", note
        ),
    )
