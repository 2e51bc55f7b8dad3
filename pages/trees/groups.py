"""The groups of a cut: their layers, and their silhouettes beside those of drawn sets."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import figures
from lens.clustering import tree_null
from lens.clustering.reference_sets import DRAWN
from lens.clustering.tree_null import DepthAgreement, GroupNull, depth_agreement_null
from lens.clustering.trees import LayerTree, silhouette
from lens.routers.router_set import RouterSet
from lens.tables import clustering as clustering_tables
from lens.tables import routers as router_tables
from lens.words import p_value_text, plain
from pages.guide import tables
from pages.shell import downloads, layout, links, null_settings
from pages.shell.picks import Mark
from pages.trees.chance import ShownTree

MOST_CLUSTERS = 12


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


def pick_groups(mark: Mark) -> None:
    """A clicked silhouette becomes the number of groups."""
    links.choose(clusters=int(mark["groups"]))


def judgement(
    tree: LayerTree, clusters: np.ndarray, null: GroupNull | None, depth: DepthAgreement
) -> None:
    """Silhouette, agreement with depth and cophenetic correlation, each beside a null and p."""

    def line(name: str, value: float, low: float, high: float, p: str) -> str:
        drawn = f"; {plain(low)} to {plain(high)} in 95 % of {p}" if p else ""
        return f"- {name} **{plain(value)}**{drawn}"

    cut = len(set(clusters.tolist()))
    nan = float("nan")
    low = high = fit_low = fit_high = nan
    p = fit_p = ""
    if null is not None:
        _, fit_low, fit_high = null.cophenetic_band
        drawn = f"{null.draws} sets of {DRAWN[null.reference]}"
        fit_p = f"{drawn}, p {p_value_text(null.cophenetic_p, null.draws)}"
        if cut in null.k:
            row = int(np.flatnonzero(null.k == cut)[0])
            low, high = float(null.low[row]), float(null.high[row])
            together = p_value_text(float(null.p_any[row]), null.draws)
            p = f"{drawn}, p {together} for all cuts together"
    depth_p = f"{depth.draws} shuffled depths, p {p_value_text(depth.p, depth.draws)}"
    compact = silhouette(tree.distances, clusters)
    st.markdown(
        "\n".join(
            [
                line(f"Silhouette of {cut} groups", compact, low, high, p),
                line("Agreement with depth", depth.value, depth.low, depth.high, depth_p),
                line("Cophenetic correlation", tree.cophenetic, fit_low, fit_high, fit_p),
            ]
        )
    )


def groups_beside_chance(shown: ShownTree, clusters: np.ndarray, null: GroupNull | None) -> None:
    """Silhouettes of all cuts beside drawn sets, and another number of groups to cut into."""
    routers = shown.routers
    settings = null_settings.current()
    depth = depth_agreement_null(clusters, draws=settings.draws - 1, seed=settings.seed)
    cut = len(set(clusters.tolist()))
    if null is not None and len(null.k):
        layout.figure(
            figures.silhouette_by_groups(null, cut),
            "silhouette_by_groups",
            routers,
            words=shown.words,
            table=lambda: clustering_tables.silhouette_csv(null),
            on_pick=pick_groups,
            stretch=True,
        )
        best = null.best
        if best is not None and null.p_any[best] <= tree_null.LEVEL:
            number = int(null.k[best])
            if number != cut and number <= MOST_CLUSTERS:
                st.button(
                    f"Cut into {number} groups, the largest silhouette above drawn sets",
                    type="tertiary",
                    icon=":material/content_cut:",
                    key="best_cut",
                    on_click=lambda: links.choose(clusters=number),
                )
    judgement(shown.tree, clusters, null, depth)


def groups_table(routers: RouterSet, clusters: np.ndarray) -> None:
    """The layers of every group of the cut."""
    labels = layout.layer_labels(routers)
    numbers = sorted(set(clusters.tolist()))
    tables.show(
        {
            "group": numbers,
            "layers": [int((clusters == number).sum()) for number in numbers],
            "members": [
                layer_ranges(labels, np.flatnonzero(clusters == number).tolist())
                for number in numbers
            ],
        },
        key="groups",
        column_config={"members": st.column_config.TextColumn(width="large")},
    )
    downloads.row(
        "layer_clusters",
        downloads.file_stem("layer_clusters", routers.sha256),
        table=lambda: router_tables.clusters_csv(labels, {"group": clusters}),
    )
