"""Figures of maps: layers as points, with what chance gives, and the variance they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Int

from lens.clustering.map_stability import random_trust
from lens.clustering.maps import trust_neighbours
from lens.errors import LensError
from lens.figures import theme
from lens.words import p_value_text

if TYPE_CHECKING:
    from lens.clustering.map_stability import MapStability, TrustNull
    from lens.clustering.maps import LayerMap

MAP_NAMES = {"pca": "PCA", "mds": "classical MDS", "tsne": "t-SNE", "umap": "UMAP"}
# Points of a map that carry their label; of more layers every second, third … one.
LABELLED_POINTS = 32


def layer_scatter(
    layer_map: LayerMap,
    labels: Sequence[str],
    *,
    clusters: Int[np.ndarray, " layer"] | None = None,
    axes: tuple[int, int] = (0, 1),
    picked: int | None = None,
    trust: TrustNull | None = None,
    stability: MapStability | None = None,
) -> alt.LayerChart:
    """Layers as points, near each other when they route alike; a thin line follows depth.

    Args:
        clusters: a group number per layer to colour by; None colours by depth.
        axes: which dimensions of the map to draw.
        picked: the layer to ring.
        trust: trustworthiness of maps of unrelated layers.
        stability: how alike maps of other seeds are.

    Returns:
        A chart with the selection "pick" of the field layer.
    """
    points = np.asarray(layer_map.points, dtype=float)[:, list(axes)]
    n_layers = len(points)
    name = MAP_NAMES.get(layer_map.method, layer_map.method)
    every = -(-n_layers // LABELLED_POINTS)
    (x_low, x_high), (y_low, y_high) = _square(points)
    x = alt.X(
        "x:Q",
        title=_axis_title(layer_map, axes[0]),
        scale=_fixed(x_low, x_high),
        axis=_plain_axis(),
    )
    y = alt.Y(
        "y:Q",
        title=_axis_title(layer_map, axes[1]),
        scale=_fixed(y_low, y_high),
        axis=_plain_axis(),
    )
    data = {
        "layer": np.arange(n_layers),
        "name": list(labels),
        "label": [n if i % every == 0 else "" for i, n in enumerate(labels)],
        "x": points[:, 0],
        "y": points[:, 1],
        "cluster": np.zeros(n_layers, int) if clusters is None else np.asarray(clusters),
    }
    base = alt.Chart(theme.embed(data)).encode(x=x, y=y)
    tooltip = [alt.Tooltip("name:N", title="layer")]
    if clusters is None:
        depth = theme.sequential((0, max(n_layers - 1, 1)))
        colour = alt.Color("layer:Q", title="depth (row)", scale=depth)
        reading = "colour: depth"
    else:
        numbers = sorted({int(c) for c in clusters})
        shades = [theme.OKABE_ITO[i % len(theme.OKABE_ITO)] for i in range(len(numbers))]
        colour = alt.Color(
            "cluster:N", title="group", scale=alt.Scale(domain=numbers, range=shades)
        )
        tooltip.append(alt.Tooltip("cluster:N", title="group"))
        reading = "colour and digit: group"
    pick = alt.selection_point(name="pick", fields=["layer"], empty=False)
    layers = [
        base.mark_line(color=theme.BAND_GREY, strokeWidth=1, opacity=0.6, tooltip=None).encode(
            order="layer:Q"
        ),
        base.mark_circle(size=110, opacity=1, stroke=theme.MID_GREY, strokeWidth=0.6)
        .encode(color=colour, tooltip=tooltip)
        .add_params(pick),
    ]
    if clusters is not None:
        layers.append(
            base.mark_text(fontSize=8, color=theme.ON_LIGHT, tooltip=None).encode(text="cluster:N")
        )
    layers.append(
        base.mark_text(
            dx=8, dy=-7, align="left", fontSize=9, color=theme.MID_GREY, tooltip=None
        ).encode(text="label:N")
    )
    if picked is not None:
        ring = {"x": [points[picked, 0]], "y": [points[picked, 1]]}
        layers.append(
            alt.Chart(theme.embed(ring))
            .mark_point(size=260, color=theme.ORANGE, strokeWidth=3, tooltip=None)
            .encode(x=x, y=y)
        )
    settings = ", ".join(
        f"{key.replace('_', ' ')} {_setting(v)}" for key, v in layer_map.settings.items()
    )
    judged = f"{_trust_text(layer_map, trust)}; {reading}"
    same = _stability_text(stability)
    return theme.layered(*layers).properties(
        width=440,
        height=440,
        autosize=theme.NATURAL,
        title=theme.title(f"Map of layers: {name}", judged, same, settings, width=440),
        description=theme.alt_description(
            f"{name} map of {n_layers} layers",
            _trust_text(layer_map, trust),
            same,
            f"Settings: {settings}" * bool(settings),
        ),
    )


def _trust_text(layer_map: LayerMap, trust: TrustNull | None) -> str:
    n = len(layer_map.points)
    text = f"trustworthiness {layer_map.trustworthiness:.2f} (1: neighbours kept; "
    if trust is None:
        k = trust_neighbours(n)
        return f"{text}points at random: {random_trust(n, k):.2f}, maps of unrelated layers more)"
    return (
        f"{text}maps of unrelated layers {trust.low:.2f} to {trust.high:.2f}, mean "
        f"{trust.mean:.2f}, in {trust.draws} draws; p {p_value_text(trust.p, trust.draws)})"
    )


def _stability_text(stability: MapStability | None) -> str:
    if stability is None:
        return ""
    seeds = ", ".join(map(str, stability.seeds))
    return (
        f"seeds {seeds} share {100 * stability.overlap:.0f} % of the {stability.neighbours} "
        f"nearest neighbours (chance {100 * stability.overlap_chance:.0f} %); Procrustes disparity "
        f"{stability.disparity:.2f} (0: the same map, chance {stability.disparity_chance:.2f})"
    )


def explained_variance(layer_map: LayerMap) -> alt.LayerChart:
    """Share of the variance on each axis of a PCA or MDS map, and the running sum.

    Raises:
        LensError: the map has no axes to explain anything (t-SNE, UMAP).
    """
    if layer_map.explained is None:
        raise LensError(
            f"A {MAP_NAMES.get(layer_map.method, layer_map.method)} map has no axes of variance; "
            "expected a PCA or MDS map. Choose one of these."
        )
    share = np.asarray(layer_map.explained, dtype=float)
    data = {"axis": np.arange(1, len(share) + 1), "share": share, "sum": np.cumsum(share)}
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("axis:O", title="axis", axis=alt.Axis(labelAngle=0))
    )
    percent = alt.Axis(format="%")
    tooltip = [
        alt.Tooltip("axis:O"),
        alt.Tooltip("share:Q", format=".1%"),
        alt.Tooltip("sum:Q", title="running sum", format=".1%"),
    ]
    bars = base.mark_bar(color=theme.BLUE).encode(
        y=alt.Y("share:Q", title="share of variance", axis=percent), tooltip=tooltip
    )
    line = base.mark_line(color=theme.ORANGE, point=alt.OverlayMarkDef(color=theme.ORANGE)).encode(
        y="sum:Q", tooltip=tooltip
    )
    return theme.layered(bars, line).properties(
        width=alt.Step(theme.cell_step(len(share), 360, low=8, high=60)),
        height=180,
        autosize=theme.NATURAL,
        title=theme.title("Variance on each axis", "bars: share; line: running sum"),
        description=theme.alt_description(
            f"The first {len(share)} axes hold {share.sum():.0%} of the variance"
        ),
    )


def _axis_title(layer_map: LayerMap, axis: int) -> str:
    name = MAP_NAMES.get(layer_map.method, layer_map.method)
    if layer_map.explained is None:
        return f"{name} {axis + 1} (no unit)"
    return f"{name} {axis + 1} ({float(layer_map.explained[axis]):.1%} of variance)"


def _square(points: np.ndarray) -> list[tuple[float, float]]:
    """Equal spans on both axes, so that distances read the same in every direction."""
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    half = float(np.ptp(points, axis=0).max()) / 2 * 1.12 or 1.0
    return [(float(m - half), float(m + half)) for m in middle]


def _fixed(low: float, high: float) -> alt.Scale:
    return alt.Scale(domain=[low, high], nice=False, zero=False)


def _plain_axis() -> alt.Axis:
    return alt.Axis(labels=False, ticks=False, grid=False)


def _setting(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
