"""The report's figures and tables of trees, groups and maps, each with what chance gives."""

from __future__ import annotations

from functools import lru_cache

import altair as alt

from lens import figures
from lens.clustering import trees as clustering
from lens.clustering.branch_support import (
    DRAWS,
    BranchSupport,
    branch_support,
    seconds_a_draw,
    unrelated_sets_wanted,
)
from lens.clustering.map_stability import (
    MapStability,
    TrustNull,
    layer_map_stability,
    trust_null,
)
from lens.clustering.maps import SEEDED
from lens.clustering.tree_null import GroupNull, depth_agreement_null
from lens.errors import LensError
from lens.report.numbers import RouterNumbers
from lens.report.parts import Part
from lens.storage import csv_text
from lens.tables import clustering as clustering_tables
from lens.tables import routers as tables

# Ways to cut the tree that the table of groups lists.
MAX_GROUPS = 8
METHODS = ("pca", "mds", "tsne", "umap")
# What takes longer is left out of a report, which says so.
LONG_SECONDS = 300.0
MOST_WEIGHTS = 20_000_000


def clustering_parts(n: RouterNumbers) -> list[Part]:
    """Trees with the support of branches, silhouettes beside chance, groups, and maps."""
    labels, metric, view = n.labels, n.settings.metric, n.settings.view
    cuts = range(2, min(MAX_GROUPS, len(labels)) + 1)

    def null() -> GroupNull:
        return n.group_null

    @lru_cache(maxsize=1)
    def support() -> BranchSupport | None:
        sets = unrelated_sets_wanted(len(labels))
        if not sets or seconds_a_draw(n.routers) * DRAWS * (1 + sets) > LONG_SECONDS:
            return None
        return branch_support(n.routers.columns(view), n.tree, metric)

    @lru_cache(maxsize=len(METHODS))
    def judged(method: str) -> tuple[TrustNull | None, MapStability | None]:
        trust = stability = None
        if method != "pca" or n.routers.routers.size <= MOST_WEIGHTS:
            trust = trust_null(n.routers, n.gram, n.map(method))
        if method in SEEDED:
            stability = layer_map_stability(
                n.routers, n.gram, method, metric=metric, seed=n.settings.seed
            )
        return trust, stability

    def groups() -> str:
        return tables.clusters_csv(
            labels, {f"group of {k}": clustering.cut_tree(n.tree, k) for k in cuts}
        )

    def depth() -> str:
        found = [depth_agreement_null(clustering.cut_tree(n.tree, k)) for k in cuts]
        return csv_text.table_csv(
            {
                "groups": list(cuts),
                "adjusted Rand index against thirds of depth (1: the same)": [
                    one.value for one in found
                ],
                "shuffled depths, mean": [one.mean for one in found],
                "shuffled depths, low (2.5 %)": [one.low for one in found],
                "shuffled depths, high (97.5 %)": [one.high for one in found],
                "p": [one.p for one in found],
                "draws": [one.draws for one in found],
                "seed": [one.seed for one in found],
            }
        )

    def map_figure(method: str) -> alt.TopLevelMixin:
        trust, stability = judged(method)
        return figures.layer_scatter(n.map(method), labels, trust=trust, stability=stability)

    def map_parts(method: str) -> list[Part]:
        seed = {"seed": n.settings.seed} if method in SEEDED else {}
        return [
            Part(f"layer_{method}", lambda: map_figure(method), seed),
            Part(
                f"layer_{method}_places", lambda: tables.layer_map_csv(n.map(method), labels), seed
            ),
        ]

    def judgements() -> str:
        rows = []
        for method in METHODS:
            trust, stability = judged(method)
            if trust is not None:
                rows.append((method, trust, stability))
        if not rows:
            raise LensError("No map of this set can be compared with chance: it is too large.")
        return clustering_tables.map_judgement_csv(rows)

    classic = "Tree of layers (classic: Ward, standardised raw weights)"
    average = {"linkage": "average"}
    ward = {"linkage": "ward", "view": "raw"}
    return [
        Part(
            "layer_dendrogram",
            lambda: figures.layer_dendrogram(n.tree, labels, support=support()),
            average,
        ),
        Part(
            "layer_dendrogram_with_heatmap",
            lambda: figures.dendrogram_with_heatmap(
                n.tree, n.similarity, labels, metric, n.chance, support=support()
            ),
            average,
        ),
        Part(
            "layer_tree",
            lambda: clustering_tables.branches_csv(n.tree, labels, support()),
            average,
        ),
        Part("layer_silhouettes", lambda: figures.silhouette_by_groups(null()), average),
        Part(
            "layer_silhouettes_by_groups",
            lambda: clustering_tables.silhouette_csv(null()),
            average,
        ),
        Part("layer_groups", groups, average),
        Part("layer_groups_and_depth", depth, average),
        Part(
            "layer_dendrogram_classic",
            lambda: figures.layer_dendrogram(n.classic_tree, labels, title=classic),
            ward,
        ),
        Part("layer_tree_classic", lambda: tables.linkage_csv(n.classic_tree, labels), ward),
        *(part for method in METHODS for part in map_parts(method)),
        Part("layer_maps_against_chance", judgements, {"seed": n.settings.seed}),
    ]
