"""Figures of groups of layers: trees, maps, and the tree above the heatmap."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.clustering import dendrogram_segments
from lens.errors import LensError
from lens.figures import theme
from lens.figures.layers import layer_similarity_heatmap

if TYPE_CHECKING:
    from lens.clustering import LayerTree
    from lens.embedding import LayerMap
    from lens.null import Chance

MAP_NAMES = {"pca": "PCA", "mds": "classical MDS", "tsne": "t-SNE", "umap": "UMAP"}
# Points of a map that carry their label; of more layers every second, third … one.
LABELLED_POINTS = 32


def layer_dendrogram(
    tree: LayerTree,
    labels: Sequence[str],
    cut: int | None = None,
    *,
    title: str = "Tree of layers",
) -> alt.LayerChart:
    """The order in which layers join into groups, and how far apart they are then.

    Args:
      cut: a number of groups; a rule is drawn at the height that gives so many.
    """
    step = theme.cell_step(len(labels), 480, high=64)
    chart = _tree(tree, labels, cut, step, show_labels=True)
    groups = f" Orange: cut into {cut} groups." if cut else ""
    groups += " The axis does not start at 0." * (_foot(tree) > 0)
    fit = f"cophenetic correlation {tree.cophenetic:.2f} (1: the tree keeps all distances)"
    return chart.properties(
        autosize=theme.NATURAL,
        title=theme.title(
            title,
            f"height: distance at which groups join; {fit}.{groups} A tree always shows groups: "
            "chance draws one too.",
            width=step * len(labels),
        ),
        description=_tree_text(tree, labels, cut),
    )


def dendrogram_with_heatmap(
    tree: LayerTree,
    similarity: Float[np.ndarray, "layer layer"],
    labels: Sequence[str],
    metric: str,
    chance: Chance | None = None,
    cut: int | None = None,
    picked: tuple[int, int] | None = None,
) -> alt.VConcatChart:
    """The tree of layers standing on the heatmap in the same order.

    Returns:
      A chart with the selection "pick" of the fields la and lb.
    """
    step = theme.cell_step(len(labels), 480, high=64)
    above = _tree(tree, labels, cut, step, show_labels=False)
    heatmap = layer_similarity_heatmap(similarity, list(tree.order), labels, metric, chance, picked)
    text = heatmap.title.to_dict()
    heatmap.title = heatmap.autosize = alt.Undefined
    groups = f"Orange: cut into {cut} groups." if cut else ""
    groups += " The axis of the tree does not start at 0." * (_foot(tree) > 0)
    return (
        alt.vconcat(above, heatmap, spacing=4)
        .resolve_scale(x="independent", color="independent")
        .properties(
            autosize=theme.NATURAL,
            title=theme.title(
                "Tree and similarity of layers",
                " ".join(text["subtitle"]),
                f"Tree: cophenetic correlation {tree.cophenetic:.2f}. {groups}",
                width=step * len(labels),
            ),
            description=f"{_tree_text(tree, labels, cut)} {theme.alt_text(heatmap)}",
        )
    )


def layer_scatter(
    layer_map: LayerMap,
    labels: Sequence[str],
    *,
    clusters: Int[np.ndarray, " layer"] | None = None,
    axes: tuple[int, int] = (0, 1),
    picked: int | None = None,
) -> alt.LayerChart:
    """Layers as points, near each other when they route alike; a thin line follows depth.

    Args:
      clusters: a group number per layer to colour by; None colours by depth.
      axes: which dimensions of the map to draw.
      picked: the layer to ring.

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
    trust = f"trustworthiness {layer_map.trustworthiness:.2f} (1: neighbours kept; chance near 0.5)"
    return theme.layered(*layers).properties(
        width=440,
        height=440,
        autosize=theme.NATURAL,
        title=theme.title(f"Map of layers: {name}", f"{trust}; {reading}", settings, width=440),
        description=theme.alt_description(
            f"{name} map of {n_layers} layers", trust, f"Settings: {settings}" * bool(settings)
        ),
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


def cut_height(tree: LayerTree, clusters: int) -> float:
    """The height that cuts a tree into so many groups: midway between two merges."""
    merges = np.sort(np.asarray(tree.linkage, dtype=float)[:, 2])
    n_layers = len(merges) + 1
    if not 1 <= clusters <= n_layers:
        raise LensError(
            f"A tree of {n_layers} layers cannot be cut into {clusters} groups; expected a number "
            f"from 1 to {n_layers}."
        )
    edges = np.concatenate([[0.0], merges, [merges[-1] * 1.06]])
    place = n_layers - clusters
    return float((edges[place] + edges[place + 1]) / 2)


def _tree(
    tree: LayerTree, labels: Sequence[str], cut: int | None, step: float, *, show_labels: bool
) -> alt.LayerChart:
    x0, y0, x1, y1 = dendrogram_segments(tree)
    n_layers = len(labels)
    places = alt.Scale(domain=[-0.5, n_layers - 0.5], nice=False, zero=False)
    every = max(1, int(np.ceil(11 / step)))
    names = json.dumps([labels[row] for row in tree.order])
    axis = alt.Axis(
        values=list(range(0, n_layers, every)),
        labelExpr=f"{names}[datum.value]",
        labelAngle=-90,
        grid=False,
        ticks=False,
        domain=False,
    )
    x = alt.X(
        "x0:Q",
        title="layer, in the order of the tree" if show_labels else None,
        scale=places,
        axis=axis if show_labels else None,
    )
    foot = _foot(tree)
    y = alt.Y("y0:Q", title="distance", scale=alt.Scale(domainMin=foot, zero=False, nice=False))
    lines = {"x0": x0, "y0": np.maximum(y0, foot), "x1": x1, "y1": np.maximum(y1, foot)}
    segments = (
        alt.Chart(theme.embed(lines))
        .mark_rule(color=theme.MID_GREY, strokeWidth=1.4, strokeCap="square")
        .encode(x=x, x2="x1:Q", y=y, y2="y1:Q", tooltip=[alt.Tooltip("y1:Q", title="distance")])
    )
    layers = [segments]
    if cut is not None:
        rule = alt.Chart(theme.embed({"y0": [cut_height(tree, cut)]}))
        layers.append(
            rule.mark_rule(color=theme.ORANGE, strokeWidth=2, strokeDash=[6, 3]).encode(y=y)
        )
    return theme.layered(*layers).properties(
        width=step * n_layers, height=220 if show_labels else 130
    )


def _foot(tree: LayerTree) -> float:
    """Where the distance axis starts: 0, or just below the merges when all are far from 0."""
    heights = np.asarray(tree.linkage, dtype=float)[:, 2]
    low, high = float(heights.min()), float(heights.max())
    return low - 0.25 * (high - low) if high > low > 0.5 * high else 0.0


def _tree_text(tree: LayerTree, labels: Sequence[str], cut: int | None) -> str:
    order = ", ".join(labels[row] for row in tree.order)
    return theme.alt_description(
        f"Dendrogram of {len(labels)} layers, cophenetic correlation {tree.cophenetic:.2f}",
        f"Leaves in order: {order}",
        f"Cut into {cut} groups" if cut else "",
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
