"""Figures of trees of layers, alone and above the heatmap that they order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.clustering.reference_sets import DRAWN
from lens.clustering.trees import dendrogram_nodes, dendrogram_segments, node_places
from lens.errors import LensError
from lens.figures import marks, theme
from lens.figures.routers.layers import layer_similarity_heatmap
from lens.layers.references import BEATEN
from lens.recipe.steps import remembered
from lens.words import fixed, percent

if TYPE_CHECKING:
    from lens.clustering.branch_support import BranchSupport
    from lens.clustering.trees import LayerTree
    from lens.stats.chance import Chance

TREE_HEIGHTS = {True: 220, False: 130}
# Branches in more of the resampled trees than this are drawn as firm.
FIRM = 0.95


@remembered
def layer_dendrogram(
    tree: LayerTree,
    labels: Sequence[str],
    cut: int | None = None,
    *,
    title: str = "Tree of layers",
    support: BranchSupport | None = None,
) -> alt.LayerChart:
    """The order in which layers join into groups, and how far apart they are then.

    Args:
        tree: of the layers.
        labels: of the layers.
        cut: a number of groups; a rule is drawn at the height that gives so many.
        title: of the figure.
        support: of the branches, which are coloured by it and carry it in percent.
    """
    step = theme.cell_step(len(labels), 480, high=64)
    chart = _tree(tree, labels, cut, step, support, show_labels=True)
    groups = f" Orange: cut into {cut} groups." if cut else ""
    groups += " The axis does not start at 0." * (_foot(tree) > 0)
    fit = f"cophenetic correlation {fixed(tree.cophenetic, 2)} (1: the tree keeps all distances)"
    return chart.properties(
        autosize=theme.NATURAL,
        title=theme.title(
            title,
            f"height: distance at which groups join; {fit}.{groups} A tree always shows groups: "
            "chance draws one too.",
            _support_text(support),
            width=step * len(labels),
        ),
        description=_tree_text(tree, labels, cut, support),
    )


# many parameters: those of the heatmap and those of the tree on it.
@remembered
def dendrogram_with_heatmap(
    tree: LayerTree,
    similarity: Float[np.ndarray, "layer layer"],
    labels: Sequence[str],
    metric: str,
    chance: Chance | None = None,
    cut: int | None = None,
    picked: tuple[int, int] | None = None,
    *,
    support: BranchSupport | None = None,
    domain: tuple[float, float] | None = None,
) -> alt.VConcatChart:
    """The tree of layers standing on the heatmap in the same order.

    Args:
        tree: of the layers.
        similarity: of every pair.
        labels: of the layers.
        metric: id of a layer metric.
        chance: what two unrelated layers give.
        cut: a number of groups; a rule is drawn at the height that gives so many.
        picked: the cell to outline, as (la, lb).
        support: of the branches, which are coloured by it and carry it in percent.
        domain: limits of the colour scale, instead of the metric's fixed ones.

    Returns:
        A chart with the selection "pick" of the fields la and lb.
    """
    step = theme.cell_step(len(labels), 480, high=64)
    above = _tree(tree, labels, cut, step, support, show_labels=False)
    heatmap = layer_similarity_heatmap(
        similarity, list(tree.order), labels, metric, chance, picked, domain=domain
    )
    text = heatmap.title.to_dict()
    heatmap.title = heatmap.autosize = alt.Undefined
    groups = f"Orange: cut into {cut} groups." if cut else ""
    groups += " The axis of the tree does not start at 0." * (_foot(tree) > 0)
    stacked = alt.vconcat(above, heatmap, spacing=4)
    figure: alt.VConcatChart = stacked.resolve_scale(x="independent", color="independent")
    return figure.properties(
        autosize=theme.NATURAL,
        title=theme.title(
            "Tree and similarity of layers",
            " ".join(text["subtitle"]),
            f"Tree: cophenetic correlation {fixed(tree.cophenetic, 2)}. {groups}",
            _support_text(support),
            width=step * len(labels),
        ),
        description=f"{_tree_text(tree, labels, cut, support)} {theme.alt_text(heatmap)}",
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
    heights = np.concatenate([[0.0], merges, [merges[-1] * 1.06]])
    below = n_layers - clusters
    return float((heights[below] + heights[below + 1]) / 2)


def _tree(
    tree: LayerTree,
    labels: Sequence[str],
    cut: int | None,
    step: float,
    support: BranchSupport | None,
    *,
    show_labels: bool,
) -> alt.LayerChart:
    x0, y0, x1, y1 = dendrogram_segments(tree)
    foot, height = _foot(tree), TREE_HEIGHTS[show_labels]
    lines = {"x0": x0, "y0": np.maximum(y0, foot), "x1": x1, "y1": np.maximum(y1, foot)}
    x = _leaf_x([labels[row] for row in tree.order], step, show_labels)
    y = alt.Y("y0:Q", title="distance", scale=alt.Scale(domainMin=foot, zero=False, nice=False))
    layers = [
        _branches(tree, lines, support).encode(x=x, x2=alt.X2("x1:Q"), y=y, y2=alt.Y2("y1:Q"))
    ]
    if cut is not None:
        layers.append(marks.cut_rule({"y0": [cut_height(tree, cut)]}, y=y))
    if support is not None:
        at = None if cut is None else cut_height(tree, cut)
        text = marks.chart(_percentages(tree, support, step, height, at), x=x, y=y)
        numbers = text.mark_text(fontSize=10, dx=3, dy=-6, align="left", tooltip=None)
        layers.append(numbers.encode(text=alt.Text("text:N")))
    return marks.layered(*layers).properties(width=step * len(labels), height=height)


def _leaf_x(leaves: Sequence[str], step: float, show_labels: bool) -> alt.X:
    """Leaves across, in the order of the tree; as many labels as have room, or none."""
    n = len(leaves)
    axis = alt.Axis(
        values=list(range(0, n, max(1, int(np.ceil(11 / step))))),
        labelExpr=f"{json.dumps(list(leaves))}[datum.value]",
        labelAngle=-90,
        grid=False,
        ticks=False,
        domain=False,
    )
    return alt.X(
        "x0:Q",
        title="layer, in the order of the tree" if show_labels else None,
        scale=alt.Scale(domain=[-0.5, n - 0.5], nice=False, zero=False),
        axis=axis if show_labels else None,
    )


def _branches(
    tree: LayerTree, lines: dict[str, np.ndarray], support: BranchSupport | None
) -> alt.Chart:
    """Lines of a tree, coloured by the support of the branch that each belongs to."""
    distance: marks.Tip = ("y1:Q", "distance")
    if support is None:
        base = marks.chart(lines, tooltip=marks.tooltip(distance))
        plain: alt.Chart = base.mark_rule(color=theme.MID_GREY, strokeWidth=1.4, strokeCap="square")
        return plain
    n = len(tree.order)
    nodes = dendrogram_nodes(tree).ravel()
    shares = np.append(np.full(n, np.nan), support.support)[nodes]
    firm, beyond, weak = support_classes(support)
    stable = np.append(np.zeros(n, bool), support.stable)[nodes]
    data = lines | {
        "branch": np.where(stable, np.where(shares >= FIRM, firm, beyond), weak),
        "share": np.asarray([percent(s) if np.isfinite(s) else "–" for s in shares]),
    }
    colour = alt.Color(
        "branch:N",
        title="support",
        scale=alt.Scale(
            domain=[firm, beyond, weak], range=[theme.OKABE_ITO[2], theme.BLUE, theme.MID_GREY]
        ),
        legend=alt.Legend(orient="top", direction="horizontal", labelLimit=260, titleLimit=80),
    )
    thin = {"test": f"datum.branch === '{weak}'", "value": 1.4}
    width = alt.StrokeWidthValue(2.4, condition=thin)
    tips = marks.tooltip(distance, ("share:N", "support"))
    base = marks.chart(data, color=colour, strokeWidth=width, tooltip=tips)
    branches: alt.Chart = base.mark_rule(strokeCap="square")
    return branches


def support_classes(support: BranchSupport) -> tuple[str, str, str]:
    """Names of the classes of branches, firm ones first."""
    level = percent(support.level) if np.isfinite(support.level) else "unknown"
    return f"{percent(FIRM)} or more", f"beyond {BEATEN[support.reference]}", f"{level} or less"


def _percentages(
    tree: LayerTree, support: BranchSupport, step: float, height: float, cut: float | None
) -> theme.Columns:
    """Support of branches beyond chance in percent, highest first, where there is room.

    A number that the line of the cut would go through stands on that line.
    """
    n = len(tree.order)
    x, y = node_places(tree)
    foot, top = _foot(tree), float(y.max())
    if cut is not None:
        digits = 13 / height * max(top - foot, 1e-12)  # their height, in units of the distance
        y = np.where((y < cut) & (cut < y + digits), cut, y)
    taken: list[tuple[float, float]] = []
    kept: list[int] = []
    for merge in range(n - 2, -1, -1):
        if not support.stable[merge]:
            continue
        across = x[n + merge] * step
        up = (y[n + merge] - foot) / max(top - foot, 1e-12) * height
        if all(abs(across - a) > 18 or abs(up - b) > 11 for a, b in taken):
            taken.append((across, up))
            kept.append(merge)
    nodes = n + np.array(kept, int)
    text = [f"{fixed(100 * support.support[merge], 0)}" for merge in kept]
    return {"x0": x[nodes], "y0": np.maximum(y[nodes], foot), "text": text}


def _support_text(support: BranchSupport | None) -> str:
    if support is None:
        return ""
    chance = (
        f"95 % of branches of {DRAWN[support.reference]} have {percent(support.level)} or less"
        if np.isfinite(support.level)
        else "no branches of drawn sets to compare with"
    )
    return (
        f"Numbers: support in %, share of {support.draws} trees over resampled coordinates that "
        f"have the branch; {chance}."
    )


def _foot(tree: LayerTree) -> float:
    """Start of the distance axis: 0, or just below the merges when all are far from 0."""
    heights = np.asarray(tree.linkage, dtype=float)[:, 2]
    low, high = float(heights.min()), float(heights.max())
    return low - 0.25 * (high - low) if high > low > 0.5 * high else 0.0


def _tree_text(
    tree: LayerTree, labels: Sequence[str], cut: int | None, support: BranchSupport | None
) -> str:
    order = ", ".join(labels[row] for row in tree.order)
    stable = ""
    if support is not None:
        stable = (
            f"{np.count_nonzero(support.stable)} of {len(support.support) - 1} branches have more "
            f"support than those of {DRAWN[support.reference]}"
        )
    return theme.alt_description(
        f"Dendrogram of {len(labels)} layers, cophenetic correlation {fixed(tree.cophenetic, 2)}",
        f"Leaves in order: {order}",
        f"Cut into {cut} groups" if cut else "",
        stable,
    )
