"""Chance for trees of layers: settings, and slow numbers asked for in blocks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import partial

import streamlit as st

from grok.units import duration
from lens import cached
from lens.clustering import branch_support, tree_null
from lens.clustering.branch_support import BranchSupport
from lens.clustering.maps import CLASSIC
from lens.clustering.reference_sets import ClusterSettings
from lens.clustering.tree_null import GroupNull
from lens.clustering.trees import LayerTree
from lens.routers.router_set import RouterSet
from pages.access import limits
from pages.shell import links
from pages.shell.deferred import Deferred
from pages.shell.session_keys import SessionKey, SessionValue

SETS = (100, 200, 1000)
TREES = (50, 100, 500)
# Weights of which the classic tree is shuffled: 0.03 s a draw for 3 million of them.
MOST_WEIGHTS = 20_000_000
# What takes longer waits for a button: for 64 layers of 8 experts, 6,144 wide, groups beside
# chance take about 5 s, and the support of branches 9.
LONG_SECONDS = 4.0
RUNS = SessionValue[dict[str, tuple[Hashable, ...]]](SessionKey.TREE_RUNS)


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
            limits.affordable(SETS, tree_null.DRAWS),
            tree_null.DRAWS,
            help="Clustered and cut like these layers: chance for silhouettes and the cophenetic "
            "correlation.",
        )
        trees = links.segments(
            "trees",
            "Resampled trees",
            limits.affordable(TREES, branch_support.DRAWS),
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
    blocks = tree_null.blocks(draws, seed)
    made = _made(
        deferred.get(
            ("scores", *shown.key, *one),
            partial(cached.block_of_scores, routers, linkage, settings, *one),
        )
        for one in blocks
    )
    drawn = sum(n for n, _ in blocks[:made])
    return cached.group_null(routers, linkage, settings, drawn, seed) if drawn else None


def _made(results: Iterable[object | None]) -> int:
    """How many of these are there, from the first on; each is asked for."""
    asked = [one is not None for one in results]
    return [*asked, False].index(False)


def wanted(key: str, what: str, seconds: float, run: tuple[Hashable, ...]) -> bool:
    """True where something takes a moment, or was asked for by the button that this draws.

    Args:
        key: of the button.
        what: it does.
        seconds: that it takes, about.
        run: all that it depends on: another one is asked for anew.
    """
    if seconds <= LONG_SECONDS:
        return True
    runs = RUNS.kept(dict)
    if runs.get(key) == run:
        return True
    pressed = st.button(
        f"{what} (about {duration(seconds)})", icon=":material/play_arrow:", key=key
    )
    if pressed:
        runs[key] = run
    return pressed


def group_seconds(shown: ShownTree, draws: int) -> float:
    """About how long `group_null` takes."""
    if shown.linkage == CLASSIC:
        return 1e-8 * shown.routers.routers.size * draws
    return tree_null.seconds(shown.routers.n_layers * shown.routers.n_experts, draws)


def support_seconds(routers: RouterSet, draws: int) -> float:
    """About how long `support` takes."""
    sets = branch_support.sets_wanted(routers.n_layers)
    return branch_support.seconds_a_draw(routers) * draws * (1 + sets)


def support(deferred: Deferred, shown: ShownTree, draws: int, seed: int) -> BranchSupport | None:
    """Support of branches from the trees made so far; None until one drawn set is there."""
    routers, linkage, settings = shown.routers, shown.linkage, shown.settings
    of = (routers, linkage, settings)
    blocks = tree_null.blocks(draws, seed, branch_support.BLOCK)
    made = _made(
        deferred.get(("support", *shown.key, *one), partial(cached.recurrences, *of, *one))
        for one in blocks
    )
    seeds = branch_support.set_seeds(seed, branch_support.sets_wanted(routers.n_layers))
    sets = _made(
        deferred.get(
            ("drawn", *shown.key, draws, own), partial(cached.drawn_support, *of, draws, own)
        )
        for own in seeds
    )
    trees = sum(n for n, _ in blocks[:made])
    if not trees or not sets:
        return None
    return cached.support_of_branches(*of, trees, sets, draws, seed)
