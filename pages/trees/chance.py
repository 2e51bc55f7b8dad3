"""Chance for trees of layers: settings, and slow numbers asked for in blocks."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial

import numpy as np
import streamlit as st

from lens import cached
from lens.clustering import branch_support, tree_null
from lens.clustering.branch_support import BranchSupport
from lens.clustering.reference_sets import ClusterSettings
from lens.clustering.tree_null import GroupNull
from lens.clustering.trees import LayerTree
from lens.routers.router_set import RouterSet
from pages.shell import links
from pages.shell.deferred import Deferred

CLASSIC = "classic"
SETS = (100, 200, 1000)
TREES = (50, 100, 500)
# Weights of which the classic tree is shuffled: 0.03 s a draw for 3 million of them.
MOST_WEIGHTS = 20_000_000
# What takes longer waits for a button.
LONG_SECONDS = 30.0


@dataclass(frozen=True)
class TreeChance:
    """Drawn sets whose trees are cut, and trees over resampled coordinates."""

    sets: int
    trees: int


def popover() -> TreeChance:
    """The settings behind a small button that names them."""
    sets, trees = (
        links.chosen(name, default)
        for name, default in (("sets", tree_null.DRAWS), ("trees", branch_support.DRAWS))
    )
    with st.popover(f"{sets} drawn sets, {trees} resampled trees", icon=":material/casino:"):
        sets = links.segments(
            "sets",
            "Drawn sets",
            SETS,
            tree_null.DRAWS,
            help="Clustered and cut like these layers: chance for silhouettes and the cophenetic "
            "correlation.",
        )
        trees = links.segments(
            "trees",
            "Resampled trees",
            TREES,
            branch_support.DRAWS,
            help="Trees over resampled coordinates, of these layers and of each drawn set: "
            "support of branches.",
        )
    return TreeChance(sets, trees)


@dataclass(frozen=True)
class ShownTree:
    """The tree on the page.

    Attributes:
        routers: of which it is made.
        tree: itself.
        linkage: by which layers join, or `CLASSIC`.
        settings: metric and view of the layers, and what they are set against.
    """

    routers: RouterSet
    tree: LayerTree
    linkage: str
    settings: ClusterSettings

    @property
    def key(self) -> tuple[Hashable, ...]:
        """All that the tree depends on."""
        return self.routers.key, self.linkage, self.settings

    @property
    def words(self) -> tuple[str, ...]:
        """Words for the names of files."""
        return self.settings.metric, self.linkage, self.settings.view


def group_null(deferred: Deferred, shown: ShownTree, draws: int, seed: int) -> GroupNull | None:
    """Silhouettes beside those of the sets drawn so far; None while there are none."""
    routers, linkage, settings = shown.routers, shown.linkage, shown.settings
    if linkage == CLASSIC and routers.routers.size > MOST_WEIGHTS:
        return None
    parts = []
    for n, own in tree_null.blocks(draws, seed):
        if linkage == CLASSIC:
            make = partial(cached.shuffled_classic_scores, routers, n, own)
        else:
            make = partial(cached.drawn_scores, routers, linkage, settings, n, own)
        scores = deferred.get(("scores", *shown.key, n, own), make)
        if scores is not None:
            parts.append(scores)
    if not parts:
        return None
    drawn = np.concatenate(parts)
    if linkage == CLASSIC:
        return tree_null.summary(shown.tree, drawn, seed)
    words = cached.clustered_layers(routers, settings).words
    return tree_null.summary(shown.tree, drawn, seed, settings.reference, words)


def support_seconds(routers: RouterSet, draws: int) -> float:
    """About how long `support` takes."""
    sets = branch_support.sets_wanted(routers.n_layers)
    return branch_support.seconds_a_draw(routers) * draws * (1 + sets)


def support(deferred: Deferred, shown: ShownTree, draws: int, seed: int) -> BranchSupport | None:
    """Support of branches from the trees made so far; None until one drawn set is there."""
    routers, linkage, settings = shown.routers, shown.linkage, shown.settings
    counts = np.zeros(len(shown.tree.linkage), np.int64)
    made = 0
    for n, own in tree_null.blocks(draws, seed, branch_support.BLOCK):
        found = deferred.get(
            ("support", *shown.key, n, own),
            partial(cached.recurrences, routers, linkage, settings, n, own),
        )
        if found is not None:
            counts, made = counts + found, made + n
    drawn = []
    for own in branch_support.set_seeds(seed, branch_support.sets_wanted(routers.n_layers)):
        found = deferred.get(
            ("drawn", *shown.key, draws, own),
            partial(cached.drawn_support, routers, linkage, settings, draws, own),
        )
        if found is not None:
            drawn.append(found)
    if not made or not drawn:
        return None
    members = branch_support.branches(shown.tree.linkage)
    return branch_support.summary(members, counts, made, drawn, seed, settings.reference)
