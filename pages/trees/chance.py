"""Chance for trees of layers: settings, and slow numbers asked for in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import streamlit as st

from lens import cached
from lens.clustering import branch_support, tree_null
from lens.clustering.branch_support import BranchSupport
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
    """Unrelated sets whose trees are cut, and trees over resampled coordinates."""

    sets: int
    trees: int


def popover() -> TreeChance:
    """The settings behind a small button that names them."""
    sets, trees = (
        links.chosen(name, default)
        for name, default in (("sets", tree_null.DRAWS), ("trees", branch_support.DRAWS))
    )
    with st.popover(f"{sets} unrelated sets, {trees} resampled trees", icon=":material/casino:"):
        sets = links.segments(
            "sets",
            "Unrelated sets",
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
            help="Trees over resampled coordinates, of these layers and of each unrelated set: "
            "support of branches.",
        )
    return TreeChance(sets, trees)


@dataclass(frozen=True)
class ShownTree:
    """The tree on the page.

    Attributes:
        routers: of which it is made.
        tree: itself.
        view: of the routers, "canonical" or "raw".
        metric: of the layers' similarity.
        linkage: by which layers join, or `CLASSIC`.
    """

    routers: RouterSet
    tree: LayerTree
    view: str
    metric: str
    linkage: str

    @property
    def words(self) -> tuple[str, ...]:
        """Words for the names of files."""
        return self.metric, self.linkage, self.view


def group_null(deferred: Deferred, shown: ShownTree, draws: int, seed: int) -> GroupNull | None:
    """Silhouettes beside those of the unrelated sets made so far; None while there are none."""
    routers, view, metric, linkage = shown.routers, shown.view, shown.metric, shown.linkage
    if linkage == CLASSIC and routers.routers.size > MOST_WEIGHTS:
        return None
    parts = []
    for n, own in tree_null.blocks(draws, seed):
        if linkage == CLASSIC:
            make = partial(cached.unrelated_classic_scores, routers, n, own)
        else:
            make = partial(cached.unrelated_scores, routers, metric, linkage, view, n, own)
        scores = deferred.get(("scores", routers.key, view, metric, linkage, n, own), make)
        if scores is not None:
            parts.append(scores)
    if not parts:
        return None
    if linkage == CLASSIC:
        method = tree_null.SHUFFLED
    else:
        method = tree_null.null_method(cached.router_gram(routers, view))
    return tree_null.summary(shown.tree, np.concatenate(parts), seed, method)


def support_seconds(routers: RouterSet, draws: int) -> float:
    """About how long `support` takes."""
    sets = branch_support.unrelated_sets_wanted(routers.n_layers)
    return branch_support.seconds_a_draw(routers) * draws * (1 + sets)


def support(deferred: Deferred, shown: ShownTree, draws: int, seed: int) -> BranchSupport | None:
    """Support of branches from the trees made so far; None until one unrelated set is there."""
    routers, view, metric, linkage = shown.routers, shown.view, shown.metric, shown.linkage
    counts = np.zeros(len(shown.tree.linkage), np.int64)
    made = 0
    for n, own in tree_null.blocks(draws, seed, branch_support.BLOCK):
        found = deferred.get(
            ("support", routers.key, view, metric, linkage, n, own),
            partial(cached.recurrences, routers, metric, linkage, view, n, own),
        )
        if found is not None:
            counts, made = counts + found, made + n
    unrelated = []
    wanted = branch_support.unrelated_sets_wanted(routers.n_layers)
    for own in branch_support.set_seeds(seed, wanted):
        found = deferred.get(
            ("unrelated", routers.key, view, metric, linkage, draws, own),
            partial(cached.unrelated_support, routers, metric, linkage, view, draws, own),
        )
        if found is not None:
            unrelated.append(found)
    if not made or not unrelated:
        return None
    members = branch_support.branches(shown.tree.linkage)
    return branch_support.summary(members, counts, made, unrelated, seed)
