"""Figures of maps: layers as points, with what chance gives, and the variance they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
from jaxtyping import Int

from lens.clustering.map_stability import random_trust
from lens.clustering.maps import trust_neighbours
from lens.clustering.reference_sets import DRAWN
from lens.errors import LensError
from lens.figures import marks, theme
from lens.layers.similarity import LAYER_METRICS
from lens.recipe.steps import remembered
from lens.words import fixed, p_value_text, percent, significant

if TYPE_CHECKING:
    from lens.clustering.map_stability import MapStability, TrustNull
    from lens.clustering.maps import LayerMap

MAP_NAMES = {"pca": "PCA", "mds": "classical MDS", "tsne": "t-SNE", "umap": "UMAP"}
# Words for settings whose names are not.
SETTINGS = {
    "dims": "dimensions",
    "min_dist": "least distance",
    "trust_neighbours": "neighbours counted for trustworthiness",
}
SIDE = 440  # px of a map
CHARACTER, LINE = 6.5, 12  # px of a name beside its point: of one character across, of a line down
NAME_AT, RADIUS = (8, 7), 6  # px from a point to its name, right and up; of a point
# Below the map, which then is about as wide as it is high in half a page.
KEY = alt.Legend(orient="bottom", direction="horizontal", titleOrient="left")


@remembered
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
        layer_map: positions of the layers.
        labels: of the layers.
        clusters: a group number per layer to colour by; None colours by depth.
        axes: which dimensions of the map to draw.
        picked: the layer to ring.
        trust: trustworthiness of maps of drawn sets.
        stability: how alike maps of other seeds are.

    Returns:
        A chart with the selection "pick" of the field layer.
    """
    points = np.asarray(layer_map.points, dtype=float)[:, list(axes)]
    name = MAP_NAMES.get(layer_map.method, layer_map.method)
    across, down = _square(points)
    x = alt.X("x:Q", **_bare(_axis_title(layer_map, axes[0]), across))
    y = alt.Y("y:Q", **_bare(_axis_title(layer_map, axes[1]), down))
    named = _with_room(points, labels, across[1] - across[0])
    base = marks.chart(_point_columns(points, labels, clusters, named), x=x, y=y)
    layers = _point_layers(base, clusters, len(points))
    if picked is not None:
        ring = marks.chart({"x": [points[picked, 0]], "y": [points[picked, 1]]}, x=x, y=y)
        ring = ring.properties(description=marks.CHOSEN)
        layers.append(ring.mark_point(size=260, color=theme.ORANGE, strokeWidth=3, tooltip=None))
    settings = ", ".join(
        f"{SETTINGS.get(key, key.replace('_', ' '))} {_setting(v)}"
        for key, v in layer_map.settings.items()
    )
    reading = "colour: depth" if clusters is None else "colour and digit: group"
    judged, same = _trust_text(layer_map, trust), _stability_text(stability)
    return marks.plot_figure(
        layers,
        (SIDE, SIDE),
        theme.title(f"Map of layers: {name}", f"{judged}; {reading}", same, settings, width=SIDE),
        theme.alt_description(
            f"{name} map of {len(points)} layers",
            judged,
            same,
            f"Settings: {settings}" * bool(settings),
        ),
        flexible=False,
    )


def _with_room(points: np.ndarray, labels: Sequence[str], span: float) -> set[int]:
    """Rows whose names fit beside their points: the first, the last, then evenly more.

    On a name lies no other point, except on the first and the last.

    Args:
        points: places [L, 2].
        labels: of the rows.
        span: of an axis, in the units of the points.
    """
    n = len(points)
    corners = points * (SIDE / span)  # px
    kept: dict[int, tuple[float, float, float]] = {}
    strides = [n // 2**k for k in range(n.bit_length()) if n // 2**k]
    for row in dict.fromkeys([0, n - 1, *(i for step in strides for i in range(0, n, step))]):
        (x, y), width = corners[row], CHARACTER * len(labels[row])
        over = corners - (x + NAME_AT[0], y + NAME_AT[1])  # of points from where the name begins
        hides = (over[:, 0] > -RADIUS) & (over[:, 0] < width)
        hides &= abs(over[:, 1]) < RADIUS + LINE / 3
        if row not in (0, n - 1) and np.delete(hides, row).any():
            continue
        if all(
            x > right or x + width < left or abs(y - other) > LINE
            for left, right, other in kept.values()
        ):
            kept[row] = (x, x + width, y)
    return set(kept)


def _point_columns(
    points: np.ndarray, labels: Sequence[str], clusters: np.ndarray | None, named: set[int]
) -> theme.Columns:
    n_layers = len(points)
    return {
        "layer": np.arange(n_layers),
        "name": list(labels),
        "label": [name if i in named else "" for i, name in enumerate(labels)],
        "x": points[:, 0],
        "y": points[:, 1],
        "cluster": np.zeros(n_layers, int) if clusters is None else np.asarray(clusters),
    }


def _point_layers(base: alt.Chart, clusters: np.ndarray | None, n_layers: int) -> list[alt.Chart]:
    """The line through depth, the points, the digits of groups, and the labels."""
    tips: list[marks.Tip] = [("name:N", "layer")]
    digits = []
    if clusters is None:
        depth = theme.sequential((0, max(n_layers - 1, 1)))
        colour = alt.Color("layer:Q", title="depth (row)", scale=depth, legend=KEY)
    else:
        numbers = sorted({int(c) for c in clusters})
        shades = alt.Scale(domain=numbers, range=theme.palette(len(numbers)))
        colour = alt.Color("cluster:N", title="group", scale=shades, legend=KEY)
        tips.append(("cluster:N", "group"))
        text = base.mark_text(fontSize=8, color=theme.ON_LIGHT, tooltip=None)
        digits = [text.encode(text=alt.Text("cluster:N"))]
    line = base.mark_line(color=theme.BAND_GREY, strokeWidth=1, opacity=0.6, tooltip=None)
    points = base.mark_circle(size=110, opacity=1, stroke=theme.MID_GREY, strokeWidth=0.6)
    names = base.mark_text(dx=NAME_AT[0], dy=-NAME_AT[1], align="left", fontSize=10, tooltip=None)
    return [
        line.encode(order=alt.Order("layer:Q")),
        points.encode(color=colour, tooltip=marks.tooltip(*tips)).add_params(marks.pick("layer")),
        *digits,
        names.encode(text=alt.Text("label:N")),
    ]


def _trust_text(layer_map: LayerMap, trust: TrustNull | None) -> str:
    n = len(layer_map.points)
    text = f"trustworthiness {fixed(layer_map.trustworthiness, 2)} (1: neighbours kept; "
    if trust is None:
        k = trust_neighbours(n)
        return f"{text}points at random: {fixed(random_trust(n, k), 2)}, maps of any layers more)"
    return (
        f"{text}maps of {DRAWN[trust.reference]} {fixed(trust.low, 2)} to {fixed(trust.high, 2)}, "
        "mean "
        f"{fixed(trust.mean, 2)}, in {trust.draws} draws; p {p_value_text(trust.p, trust.draws)})"
    )


def _stability_text(stability: MapStability | None) -> str:
    if stability is None:
        return ""
    seeds = ", ".join(map(str, stability.seeds))
    return (
        f"seeds {seeds} share {percent(stability.overlap)} of the {stability.neighbours} "
        f"nearest neighbours (chance {percent(stability.overlap_chance)}); Procrustes disparity "
        f"{fixed(stability.disparity, 2)} (0: the same map, chance "
        f"{fixed(stability.disparity_chance, 2)})"
    )


@remembered
def explained_variance(layer_map: LayerMap) -> alt.LayerChart:
    """Share of the variance on each axis of a PCA or MDS map, and the running sum.

    Args:
        layer_map: with its explained variance.

    Raises:
        LensError: the map has no axes to explain anything (t-SNE, UMAP).
    """
    if layer_map.explained is None:
        raise LensError(
            f"A {MAP_NAMES.get(layer_map.method, layer_map.method)} map has no axes of variance; "
            "expected a PCA or MDS map. Choose one of these."
        )
    share = np.asarray(layer_map.explained, dtype=float)
    base = marks.chart(
        {"axis": np.arange(1, len(share) + 1), "share": share, "sum": np.cumsum(share)},
        x=alt.X("axis:O", title="axis", axis=alt.Axis(labelAngle=0)),
        tooltip=marks.tooltip(("axis:O",), ("share:Q", "", ".1%"), ("sum:Q", "running sum", ".1%")),
    )
    y = alt.Y("share:Q", title="share of variance", axis=alt.Axis(format="%"))
    line = base.mark_line(color=theme.ORANGE, point=alt.OverlayMarkDef(color=theme.ORANGE))
    step = theme.cell_step(len(share), 360, low=8, high=60)
    return marks.plot_figure(
        [base.mark_bar(color=theme.BLUE).encode(y=y), line.encode(y=alt.Y("sum:Q"))],
        (alt.Step(step), 180),
        theme.title("Variance on each axis", "bars: share; line: running sum"),
        theme.alt_description(
            f"The first {len(share)} axes hold {percent(float(share.sum()))} of the variance"
        ),
        flexible=False,
    )


def _axis_title(layer_map: LayerMap, axis: int) -> str:
    name = MAP_NAMES.get(layer_map.method, layer_map.method)
    if layer_map.explained is None:
        return f"{name} {axis + 1} (no unit)"
    return f"{name} {axis + 1} ({percent(float(layer_map.explained[axis]), 1)} of variance)"


def _square(points: np.ndarray) -> list[tuple[float, float]]:
    """Equal spans on both axes, so that distances read the same in every direction."""
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    half = float(np.ptp(points, axis=0).max()) / 2 * 1.12 or 1.0
    return [(float(m - half), float(m + half)) for m in middle]


def _bare(title: str, domain: tuple[float, float]) -> dict[str, Any]:
    """An axis without numbers, which mean nothing on a map."""
    return {
        "title": title,
        "scale": alt.Scale(domain=list(domain), nice=False, zero=False),
        "axis": alt.Axis(labels=False, ticks=False, grid=False),
    }


def _setting(value: object) -> str:
    if value in LAYER_METRICS:
        return LAYER_METRICS[str(value)].label
    return f"{significant(value)}" if isinstance(value, float) else str(value)
