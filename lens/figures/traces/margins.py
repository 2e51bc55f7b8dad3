"""Figures of margins beside those of normal logits with the same mean and covariance."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.figures import theme

PLOT_WIDTH = 680


def margin_quantiles(
    quantiles: Float[np.ndarray, "layer level"],
    normal: Float[np.ndarray, "layer level"],
    levels: Sequence[float],
    labels: Sequence[str],
) -> alt.LayerChart:
    """Margins of every layer: median, quartiles and 5–95 %, beside those of normal logits."""
    columns = [int(np.argmin(np.abs(np.asarray(levels) - level))) for level in (0.05, 0.25, 0.5)]
    columns += [int(np.argmin(np.abs(np.asarray(levels) - level))) for level in (0.75, 0.95)]
    names = ("measured", "normal logits")
    parts = [np.asarray(values)[:, columns] for values in (quantiles, normal)]
    stacked = np.concatenate(parts)
    n_layers = len(labels)
    shift = np.repeat([-0.17, 0.17], n_layers)
    data = {
        "x": np.tile(np.arange(n_layers), 2) + shift,
        "layer": list(labels) * 2,
        "what": np.repeat(names, n_layers),
        **{f"q{i}": stacked[:, i] for i in range(5)},
    }
    quoted = ",".join(f"'{label}'" for label in labels)
    every = max(1, -(-n_layers * 16 // PLOT_WIDTH))
    axis = alt.Axis(
        values=list(range(0, n_layers, every)),
        labelExpr=f"[{quoted}][datum.value]",
        labelAngle=-90 if n_layers > 16 else 0,
        grid=False,
    )
    scale = alt.Scale(domain=[-0.5, n_layers - 0.5], nice=False, zero=False)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("x:Q", title="layer", scale=scale, axis=axis),
        y=alt.Y("q0:Q", title="margin (logits)"),
        color=alt.Color(
            "what:N",
            title=None,
            scale=alt.Scale(domain=list(names), range=[theme.BLUE, theme.BAND_GREY]),
            legend=alt.Legend(orient="bottom"),
        ),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("what:N", title="margins"),
            *(
                alt.Tooltip(f"q{i}:Q", title=f"{name} %", format=".4f")
                for i, name in enumerate((5, 25, 50, 75, 95))
            ),
        ],
    )
    thick = float(np.clip(PLOT_WIDTH / n_layers / 4, 2, 12))
    layers = [
        base.mark_rule(size=1.2).encode(y2="q4:Q"),
        base.mark_bar(size=thick, opacity=0.85).encode(y=alt.Y("q1:Q"), y2="q3:Q"),
        base.mark_tick(orient="horizontal", thickness=2, size=thick, tooltip=None).encode(
            y=alt.Y("q2:Q"), color=alt.value(theme.ON_LIGHT)
        ),
    ]
    return theme.layered(*layers).properties(
        width=PLOT_WIDTH,
        height=240,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "How close the choices are",
            "margin in logits; line 5 to 95 %, box quartiles, tick median; grey: normal logits of "
            "the same mean and covariance",
            width=PLOT_WIDTH,
        ),
        description=theme.alt_description(
            f"Quantiles of the margins of {n_layers} layers",
            f"Medians from {stacked[:n_layers, 2].min():.3g} to {stacked[:n_layers, 2].max():.3g} "
            f"logits; of normal logits {stacked[n_layers:, 2].min():.3g} to "
            f"{stacked[n_layers:, 2].max():.3g}",
        ),
    )


def margin_histogram(
    edges: Float[np.ndarray, " edge"],
    counts: Int[np.ndarray, " bin"],
    expected: Float[np.ndarray, " bin"],
    *,
    label: str,
) -> alt.LayerChart:
    """Margins of one layer counted in bins; the line is what normal logits would give."""
    data = {"from": edges[:-1], "to": edges[1:], "tokens": counts, "expected": expected}
    x = alt.X("from:Q", title="margin (logits)", scale=alt.Scale(nice=False))
    y = alt.Y("tokens:Q", title="tokens")
    base = alt.Chart(theme.embed(data)).encode(x=x, y=y)
    tooltip = [
        alt.Tooltip("from:Q", format=".3f"),
        alt.Tooltip("to:Q", format=".3f"),
        alt.Tooltip("tokens:Q"),
        alt.Tooltip("expected:Q", title="normal logits", format=".1f"),
    ]
    line = {
        "at": np.repeat(edges, 2)[1:-1],
        "expected": np.repeat(expected, 2),
    }
    steps = alt.Chart(theme.embed({**line, "order": np.arange(2 * len(expected))}))
    total = int(np.sum(counts))
    return theme.layered(
        base.mark_rect(color=theme.BLUE, opacity=0.75).encode(
            x2="to:Q", y2=alt.datum(0), tooltip=tooltip
        ),
        steps.mark_line(color=theme.ORANGE, strokeWidth=1.8).encode(
            x=alt.X("at:Q"), y=alt.Y("expected:Q"), order="order:O"
        ),
    ).properties(
        width=PLOT_WIDTH,
        height=180,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            f"Margins in {label}",
            f"{total} tokens; orange: normal logits of the same mean and covariance; the last bin "
            "holds all above",
            width=PLOT_WIDTH,
        ),
        description=theme.alt_description(
            f"Histogram of the margins of {total} tokens in {label}",
            f"In the lowest bin {int(counts[0])}; normal logits would give {expected[0]:.1f}",
        ),
    )
