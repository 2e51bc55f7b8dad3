"""Clustering: which groups of layers there are, and whether depth explains them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from lens import cached, figures, tables
from lens.clustering import LINKAGES, LayerTree, cut_tree, depth_agreement, silhouette
from lens.embedding import MIN_LAYERS, LayerMap
from lens.errors import LensError
from lens.routers import RouterSet
from lens.similarity import LAYER_METRICS
from pages.parts import data_source, downloads, layout, links

HOW_TO_READ = """
**Tree.** Layers join from the most alike upwards; the height is the distance at which two groups
join, √(2 − 2·similarity). The *cophenetic correlation* says how well the tree keeps all distances:
near 1 it does, well below 0.7 it misleads. A tree always shows groups, chance draws one too.

**Cut.** The number of groups. The *silhouette* is near 1 when groups are compact and apart, near 0
when they are not. *Agreement with depth* is the adjusted Rand index against early, middle and late
thirds: 1 the same grouping, 0 what chance gives.

**Maps.** Classical scaling (MDS) of the same distances and PCA are deterministic and state the
variance they show. t-SNE and UMAP depend on their seed and settings; only small distances on them
mean something. *Trustworthiness*: 1 when neighbours on the map are neighbours in truth, about 0.5
when none are.

The classic variants, Ward's linkage and PCA of raw routers flattened and standardised, depend on
how experts are numbered and on what softmax cannot see. They are here because they are known.
"""

CLASSIC = "classic"
TREE_NAMES = {
    "average": "Average linkage",
    "complete": "Complete linkage",
    "single": "Single linkage",
    "ward": "Ward",
    CLASSIC: "Classic: Ward on raw weights",
}
MAP_NAMES = {"mds": "MDS", "pca": "PCA (classic)", "umap": "UMAP", "tsne": "t-SNE"}
AXES = {"12": (0, 1), "13": (0, 2), "23": (1, 2)}
MOST_CLUSTERS = 12


def pick_pair(mark: Mapping[str, Any]) -> None:
    """A clicked cell becomes the pair of the Layers page."""
    links.choose(layer=int(mark["la"]), other=int(mark["lb"]))


def pick_layer(mark: Mapping[str, Any]) -> None:
    """A clicked point becomes the layer of every page."""
    links.choose(layer=int(mark["layer"]))


def controls(n_layers: int) -> tuple[str, str, int]:
    """Metric, linkage and number of groups."""
    first, second, third = st.columns([2, 2, 3])
    with first:
        metric = links.choice(
            "metric",
            "Metric",
            list(LAYER_METRICS),
            "cka",
            shown=lambda name: LAYER_METRICS[name].label,
        )
    with second:
        linkage = links.choice(
            "linkage",
            "Tree",
            [*LINKAGES, CLASSIC],
            "average",
            shown=lambda name: TREE_NAMES.get(name, name),
        )
    with third:
        most = min(MOST_CLUSTERS, n_layers)
        if most > 2:
            cut = links.number("clusters", "Groups", 2, most, min(3, most), slider=True)
        else:
            cut = 2
    return metric, linkage, cut


def tree_figure(
    routers: RouterSet, tree: LayerTree, view: str, metric: str, linkage: str, cut: int
) -> None:
    """The tree, on the heatmap it orders."""
    labels = layout.layer_labels(routers)
    picked = (int(links.chosen("layer", 0)), int(links.chosen("other", 1)))
    if max(picked) >= routers.n_layers:
        picked = (0, 1)
    if linkage == CLASSIC:
        chart: Any = figures.layer_dendrogram(tree, labels, cut, title="Tree of layers (classic)")
        pick = None
    else:
        similarity = cached.layer_similarity(routers, metric, view)
        chance = cached.chance_level(metric, routers, view)
        chart = figures.dendrogram_with_heatmap(
            tree, similarity, labels, metric, chance, cut, picked
        )
        pick = pick_pair
    layout.figure(
        chart,
        "layer_dendrogram",
        routers,
        words=(metric, linkage, view),
        table=lambda: tables.linkage_csv(tree, labels),
        on_pick=pick,
    )


def layer_ranges(labels: list[str], rows: list[int]) -> str:
    """Layers in words, neighbours joined: "L0–L4, L7"."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][-1] + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return ", ".join(
        labels[run[0]] if len(run) == 1 else f"{labels[run[0]]}–{labels[run[-1]]}" for run in runs
    )


def groups(routers: RouterSet, tree: LayerTree, clusters: np.ndarray) -> None:
    """The groups of the cut, and how much they mean."""
    depth = depth_agreement(clusters)
    compact = silhouette(tree.distances, clusters)
    with st.container(horizontal=True, gap="medium"):
        st.metric(
            "Silhouette",
            f"{compact:.2f}".replace("-", "−"),
            help="1: compact and apart, 0: no groups",
            width=150,
        )
        st.metric(
            "Agreement with depth",
            f"{depth:.2f}".replace("-", "−"),
            help="Adjusted Rand index against thirds of depth; chance 0",
            width=190,
        )
        st.metric(
            "Cophenetic",
            f"{tree.cophenetic:.2f}",
            help="How well the tree keeps all distances",
            width=150,
        )
    labels = layout.layer_labels(routers)
    numbers = sorted(set(clusters.tolist()))
    st.dataframe(
        {
            "group": numbers,
            "layers": [int((clusters == number).sum()) for number in numbers],
            "members": [
                layer_ranges(labels, np.flatnonzero(clusters == number).tolist())
                for number in numbers
            ],
        },
        hide_index=True,
        key="groups",
        column_config={"members": st.column_config.TextColumn(width="large")},
    )
    downloads.row(
        "layer_clusters",
        downloads.file_stem("layer_clusters", routers.sha256),
        table=lambda: tables.clusters_csv(labels, {"group": clusters}),
    )


def map_settings(method: str, n_layers: int) -> dict[str, Any]:
    """The settings of a map that has some."""
    settings: dict[str, Any] = {}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        settings["seed"] = links.number("seed", "Seed", 0, 9999, 42)
        if method == "tsne":
            limit = max((n_layers - 1) // 3, 1)
            settings["perplexity"] = links.number(
                "perplexity", "Perplexity", 1, limit, min(30, limit)
            )
        else:
            most = max(n_layers - 1, 2)
            settings["neighbours"] = links.number(
                "neighbours", "Neighbours", 2, most, min(15, most)
            )
            settings["min_dist"] = links.decimal("min_dist", "Least distance", 0.0, 1.0, 0.1)
    return settings


def layer_map(routers: RouterSet, view: str, metric: str, clusters: np.ndarray) -> None:
    """Layers as points."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = links.choice(
            "map", "Map", list(MAP_NAMES), "mds", shown=MAP_NAMES.__getitem__, widget="segments"
        )
        axes = links.choice(
            "axes",
            "Dimensions",
            list(AXES),
            "12",
            shown={"12": "1 and 2", "13": "1 and 3", "23": "2 and 3"}.__getitem__,
            widget="segments",
            help="With the third dimension the map is computed in three.",
        )
        colour = links.choice(
            "colour",
            "Colour",
            ["depth", "groups"],
            "depth",
            shown=str.capitalize,
            widget="segments",
        )
    if routers.n_layers < MIN_LAYERS:
        st.info(f"A map needs at least {MIN_LAYERS} layers; this router set has fewer.")
        return
    dims = 2 if axes == "12" else 3
    settings: dict[str, Any] = {}
    if method in ("tsne", "umap"):
        settings = map_settings(method, routers.n_layers)
        run = (routers.key, view, metric, method, dims, *settings.values())
        if st.button(f"Run {MAP_NAMES[method]}", type="primary", icon=":material/play_arrow:"):
            st.session_state["map_run"] = run
        if st.session_state.get("map_run") != run:
            st.caption("The first run takes some seconds; the rest of the page stays as it is.")
            return
    try:
        with st.spinner(f"Computing {MAP_NAMES[method]} …", show_time=True):
            found: LayerMap = cached.layer_map(
                routers, method, metric=metric, view=view, dims=dims, **settings
            )
    except LensError as error:
        st.info(str(error))
        return
    labels = layout.layer_labels(routers)
    layer = int(links.chosen("layer", 0))
    layout.figure(
        figures.layer_scatter(
            found,
            labels,
            clusters=clusters if colour == "groups" else None,
            axes=AXES[axes],
            picked=layer if layer < routers.n_layers else None,
        ),
        f"layer_{method}",
        routers,
        words=(metric, view),
        table=lambda: tables.layer_map_csv(found, labels),
        on_pick=pick_layer,
    )
    explained = found.explained
    if explained is not None:
        with st.expander("Variance explained"):
            layout.figure(
                figures.explained_variance(found),
                "explained_variance",
                routers,
                words=(method, metric),
                table=lambda: tables.table_csv(
                    {
                        "dimension": np.arange(1, len(explained) + 1),
                        "share of variance": explained,
                    }
                ),
            )


def show() -> None:
    """The page."""
    links.through_app()
    routers = data_source.current()
    view = data_source.current_view()
    layout.heading(
        "Clustering", layout.finding(routers, "/clustering"), HOW_TO_READ, routers, view=view
    )
    if routers.n_layers < 2:
        st.info("This router set has one layer, so there is nothing to group.")
        return
    metric, linkage, cut = controls(routers.n_layers)
    if linkage == CLASSIC:
        tree = cached.classic_tree(routers)
    else:
        tree = cached.layer_tree(routers, metric, linkage, view)
    clusters = cut_tree(tree, cut)
    left, right = st.columns([3, 2], gap="large")
    with left:
        tree_figure(routers, tree, view, metric, linkage, cut)
    with right:
        groups(routers, tree, clusters)
    st.divider()
    layer_map(routers, view, metric, clusters)
    layout.share(routers)


show()
