"""The report's figures and tables of trees, groups and maps, each with what chance gives."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import altair as alt

from lens import figures
from lens.clustering import trees as clustering
from lens.clustering.branch_support import (
    DRAWS,
    BranchSupport,
    branch_support,
    seconds_a_draw,
    sets_wanted,
)
from lens.clustering.map_stability import (
    MapStability,
    TrustNull,
    layer_map_stability,
    trust_null,
)
from lens.clustering.maps import SEEDED
from lens.clustering.tree_null import depth_agreement_null
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
CLASSIC_TITLE = "Tree of layers (classic: Ward, standardised raw weights)"
AVERAGE: dict[str, Any] = {"linkage": "average"}
WARD: dict[str, Any] = {"linkage": "ward", "view": "raw"}


class Judgements:
    """Support of the tree's branches and trust in the maps, each computed at first use."""

    def __init__(self, n: RouterNumbers) -> None:
        self.n = n
        self._maps: dict[str, tuple[TrustNull | None, MapStability | None]] = {}

    @cached_property
    def support(self) -> BranchSupport | None:
        """Of every branch; None where it would take too long."""
        n = self.n
        sets = sets_wanted(len(n.labels))
        if not sets or seconds_a_draw(n.routers) * DRAWS * (1 + sets) > LONG_SECONDS:
            return None
        return branch_support(n.clustered, n.tree)

    def of_map(self, method: str) -> tuple[TrustNull | None, MapStability | None]:
        """Trust in a map and its stability; None where there is none or it would take too long."""
        if method not in self._maps:
            n, trust, stability = self.n, None, None
            if method != "pca" or n.routers.routers.size <= MOST_WEIGHTS:
                trust = trust_null(n.clustered, n.map(method))
            if method in SEEDED:
                stability = layer_map_stability(n.clustered, method, n.map_settings)
            self._maps[method] = trust, stability
        return self._maps[method]


def clustering_parts(n: RouterNumbers) -> list[Part]:
    """Trees with the support of branches, silhouettes beside chance, groups, and maps."""
    judged = Judgements(n)
    return [
        *_tree_parts(n, judged),
        *_group_parts(n),
        *_classic_tree_parts(n),
        *_map_parts(n, judged),
    ]


def _tree_parts(n: RouterNumbers, judged: Judgements) -> Iterator[Part]:
    yield Part(
        "layer_dendrogram",
        lambda: figures.layer_dendrogram(n.tree, n.labels, support=judged.support),
        AVERAGE,
    )
    yield Part(
        "layer_dendrogram_with_heatmap",
        lambda: figures.dendrogram_with_heatmap(
            n.tree, n.clustered_similarity, n.labels, n.settings.metric, support=judged.support
        ),
        AVERAGE,
    )
    yield Part(
        "layer_tree",
        lambda: clustering_tables.branches_csv(n.tree, n.labels, judged.support),
        AVERAGE,
    )


def _group_parts(n: RouterNumbers) -> Iterator[Part]:
    cuts = range(2, min(MAX_GROUPS, len(n.labels)) + 1)

    def groups() -> str:
        return tables.clusters_csv(
            n.labels, {f"group of {k}": clustering.cut_tree(n.tree, k) for k in cuts}
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

    yield Part("layer_silhouettes", lambda: figures.silhouette_by_groups(n.group_null), AVERAGE)
    yield Part(
        "layer_silhouettes_by_groups",
        lambda: clustering_tables.silhouette_csv(n.group_null),
        AVERAGE,
    )
    yield Part("layer_groups", groups, AVERAGE)
    yield Part("layer_groups_and_depth", depth, AVERAGE)


def _classic_tree_parts(n: RouterNumbers) -> Iterator[Part]:
    yield Part(
        "layer_dendrogram_classic",
        lambda: figures.layer_dendrogram(n.classic_tree, n.labels, title=CLASSIC_TITLE),
        WARD,
    )
    yield Part("layer_tree_classic", lambda: tables.linkage_csv(n.classic_tree, n.labels), WARD)


def _map_parts(n: RouterNumbers, judged: Judgements) -> Iterator[Part]:
    def figure(method: str) -> alt.TopLevelMixin:
        trust, stability = judged.of_map(method)
        return figures.layer_scatter(n.map(method), n.labels, trust=trust, stability=stability)

    def judgements() -> str:
        rows = []
        for method in METHODS:
            trust, stability = judged.of_map(method)
            if trust is not None:
                rows.append((method, trust, stability))
        if not rows:
            raise LensError("No map of this set can be compared with chance: it is too large.")
        return clustering_tables.map_judgement_csv(rows)

    def places(method: str) -> str:
        return tables.layer_map_csv(n.map(method), n.labels)

    for method in METHODS:
        seed = {"seed": n.settings.seed} if method in SEEDED else {}
        yield Part(f"layer_{method}", partial(figure, method), seed)
        yield Part(f"layer_{method}_places", partial(places, method), seed)
    yield Part("layer_maps_against_chance", judgements, {"seed": n.settings.seed})
