"""Figures of margins beside those of normal logits with the same mean and covariance."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.figures import marks, theme
from lens.recipe.steps import remembered
from lens.words import fixed, percent, significant

PLOT_WIDTH = 680
SHOWN = (0.05, 0.25, 0.5, 0.75, 0.95)
SOURCES = ("measured", "normal logits")


@remembered
def margin_quantiles(
    quantiles: Float[np.ndarray, "layer level"],
    normal: Float[np.ndarray, "layer level"],
    levels: Sequence[float],
    labels: Sequence[str],
) -> alt.LayerChart:
    """Margins of every layer: median, quartiles and 5–95 %, beside those of normal logits.

    Args:
        quantiles: of the measured margins, logits.
        normal: of those of normal logits.
        levels: of the quantiles, from 0 to 1.
        labels: of the layers.
    """
    n_layers = len(labels)
    columns = [int(np.argmin(np.abs(np.asarray(levels) - level))) for level in SHOWN]
    stacked = np.concatenate([np.asarray(part)[:, columns] for part in (quantiles, normal)])
    data = {
        "x": np.tile(np.arange(n_layers), 2) + np.repeat([-0.17, 0.17], n_layers),
        "layer": list(labels) * 2,
        "what": np.repeat(SOURCES, n_layers),
        **{f"q{i}": stacked[:, i] for i in range(len(SHOWN))},
    }
    percentages: list[marks.Tip] = [
        (f"q{i}:Q", f"{percent(level)}", ".4f") for i, level in enumerate(SHOWN)
    ]
    base = marks.chart(
        data,
        x=alt.X(
            "x:Q",
            title="layer",
            scale=alt.Scale(domain=[-0.5, n_layers - 0.5], nice=False, zero=False),
            axis=marks.layer_number_axis(labels, PLOT_WIDTH),
        ),
        y=alt.Y("q0:Q", title="margin (logits)"),
        color=alt.Color(
            "what:N",
            title=None,
            scale=alt.Scale(domain=list(SOURCES), range=[theme.BLUE, theme.BAND_GREY]),
            legend=alt.Legend(orient="bottom"),
        ),
        tooltip=marks.tooltip(("layer:N",), ("what:N", "margins"), *percentages),
    )
    thick = float(np.clip(PLOT_WIDTH / n_layers / 4, 2, 12))
    median = base.mark_tick(orient="horizontal", thickness=2, size=thick, tooltip=None)
    own, expected = stacked[:n_layers, 2], stacked[n_layers:, 2]
    return marks.plot_figure(
        [
            base.mark_rule(size=1.2).encode(y2=alt.Y2("q4:Q")),
            base.mark_bar(size=thick, opacity=0.85).encode(y=alt.Y("q1:Q"), y2=alt.Y2("q3:Q")),
            median.encode(y=alt.Y("q2:Q"), color=alt.ColorValue(theme.ON_LIGHT)),
        ],
        (PLOT_WIDTH, 240),
        theme.title(
            "How close the choices are",
            "margin in logits; line 5 to 95 %, box quartiles, tick median; grey: normal logits of "
            "the same mean and covariance",
            width=PLOT_WIDTH,
        ),
        theme.alt_description(
            f"Quantiles of the margins of {n_layers} layers",
            f"Medians from {significant(own.min())} to {significant(own.max())} logits; of normal "
            f"logits {significant(expected.min())} to {significant(expected.max())}",
        ),
    )


@remembered
def margin_histogram(
    edges: Float[np.ndarray, " edge"],
    counts: Int[np.ndarray, " bin"],
    expected: Float[np.ndarray, " bin"],
    *,
    label: str,
) -> alt.LayerChart:
    """Margins of one layer counted in bins; the line is what normal logits would give.

    Args:
        edges: of the bins, logits.
        counts: tokens in each.
        expected: tokens that normal logits would put there.
        label: of the layer.
    """
    base = marks.chart(
        {"from": edges[:-1], "to": edges[1:], "tokens": counts, "expected": expected},
        x=alt.X("from:Q", title="margin (logits)", scale=alt.Scale(nice=False)),
        y=alt.Y("tokens:Q", title="tokens"),
    )
    tips = marks.tooltip(
        ("from:Q", "", ".3f"),
        ("to:Q", "", ".3f"),
        ("tokens:Q",),
        ("expected:Q", "normal logits", ".1f"),
    )
    steps = {
        "at": np.repeat(edges, 2)[1:-1],
        "expected": np.repeat(expected, 2),
        "order": np.arange(2 * len(expected)),
    }
    line = marks.chart(steps, x=alt.X("at:Q"), y=alt.Y("expected:Q"), order=alt.Order("order:O"))
    bars = base.mark_rect(color=theme.BLUE, opacity=0.75)
    total = int(np.sum(counts))
    return marks.plot_figure(
        [
            bars.encode(x2=alt.X2("to:Q"), y2=alt.Y2Datum(0), tooltip=tips),
            line.mark_line(color=theme.ORANGE, strokeWidth=1.8),
        ],
        (PLOT_WIDTH, 180),
        theme.title(
            f"Margins in {label}",
            f"{total} tokens; orange: normal logits of the same mean and covariance; the last bin "
            "holds all above",
            width=PLOT_WIDTH,
        ),
        theme.alt_description(
            f"Histogram of the margins of {total} tokens in {label}",
            f"In the lowest bin {int(counts[0])}; normal logits would give {fixed(expected[0], 1)}",
        ),
    )
