"""Clustering: groups of layers, and their agreement with depth."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import numpy as np
import streamlit as st

from lens import cached, figures
from lens.clustering.branch_support import BranchSupport
from lens.clustering.maps import CLASSIC
from lens.clustering.reference_sets import DRAWN, ClusterSettings
from lens.clustering.tree_null import GroupNull, groups_finding
from lens.clustering.trees import LINKAGES, cut_tree
from lens.questions import ask_depth
from lens.routers.router_set import RouterSet
from lens.tables import clustering as clustering_tables
from lens.words import percent
from pages.shell import data_source, finding_block, layout, links, null_settings
from pages.shell.deferred import Deferred
from pages.shell.finding_block import Headline
from pages.shell.picks import pick_layers
from pages.shell.reference_choice import reference_choice
from pages.trees import chance as tree_chance
from pages.trees import groups, maps
from pages.trees.chance import ShownTree, TreeChance

HOW_TO_READ = """
**Tree.** Layers join from the most alike upwards; the height is the distance at which two groups
join, √(2 − 2·similarity), for the Euclidean metric the distance itself. The *cophenetic
correlation* is Pearson's r between the heights at which layers meet and their distances: near 1
the tree keeps all distances, well below 0.7 it misleads. A tree always shows groups, chance draws
one too.

**Against.** *Directions that all layers share* (the default): drawn sets are layers mixed at
random from all layers, X → X·O, X the columns of all layers side by side and O a random rotation
of them. Whatever all layers share stays exactly; which layer reads what is lost. The largest
shared directions can be taken away before, from the layers and from what they are set against, so
that trees, groups and maps are of what is left. *Unrelated directions*: each layer is turned at
random, keeps its own router and loses all that it has in common with others; trained layers beat
that for nothing, because they share a few large directions. *Shuffled coordinates* also keep how
unevenly weights lie over coordinates; they are the stricter reference where a few weights are
huge. With more than 512 router columns, similarities are drawn pair by pair: of mixed layers from
10 mixed sets of a few layers, of turned ones from each pair's null, of shuffled ones from 3 sets.
That leaves out what hangs together in three layers: p of the cophenetic correlation is then too
small where few directions carry most of the weight.

**Support.** As many coordinates of the residual stream as there are, taken anew with replacement,
the same ones for all layers (a row taken m times is multiplied by √m); the tree made again. The
support of a branch is the share of such trees in which the same layers, and no others, form a
branch. It says how little a branch hangs on which coordinates are looked at, not how likely it is
to be true. Branches of drawn sets come back too: coloured and numbered are branches with more
support than 95 of 100 of those have.

**Cut and silhouette.** For each layer (b − a) / max(a, b), with a its mean distance to its own
group and b that to the nearest other one, 0 for a layer on its own; the mean over layers. 1:
compact and apart; 0: arbitrary; below 0.25 groups are not compact. The grey band holds 95 % of the
silhouettes of drawn sets, clustered and cut in the same way. p of one number of groups counts the
draws that reach it; *p of all together* compares the largest silhouette over all numbers, in units
of the spread of the draws: of drawn sets one in twenty has any at 5 %. A small p says that some
layers are more alike than the reference makes them. A slow change along depth gets one too;
whether there are groups, the silhouette itself says. The number of groups is 3 until you choose
another; it is not chosen by the silhouette, since that would be looking twice.

**Agreement with depth.** Adjusted Rand index of the groups against early, middle and late thirds:
1 the same grouping, 0 what chance gives. Its null shuffles the depths of the layers and leaves the
groups as they are.

**Maps.** Classical scaling (MDS) of the same distances and PCA are deterministic and state the
variance they show. t-SNE and UMAP depend on their seed and settings; only small distances on them
mean something. *Trustworthiness*: 1 − 2 / (n·k·(2n − 3k − 1)) · Σ max(0, true rank − k) over the k
nearest on the map; 1 when neighbours on the map are neighbours in truth. Points at random have
about 0.5, but maps of any layers have more: those of drawn sets are made in the same way and stand
beside it. *Three seeds*: the nearest neighbours that two maps share, over those that either has
(Jaccard), and the Procrustes disparity 1 − (Σσ)², what the best shift, turn, mirror image and
scale leave between them: 0 the same map, 1 nothing in common.

The classic variants, Ward's linkage and PCA of raw routers flattened and standardised, depend on
how experts are numbered and on what softmax cannot see. They are here because they are known.
Their null shuffles the coordinates of each layer.
"""

TREE_NAMES = {
    "average": "Average linkage",
    "complete": "Complete linkage",
    "single": "Single linkage",
    "ward": "Ward",
    CLASSIC: "Classic: Ward on raw weights",
}


@dataclass(frozen=True)
class Controls:
    """What the page shows.

    Attributes:
        linkage: by which layers join, or `CLASSIC`.
        cut: number of groups.
        chance: how many sets are drawn, and how many trees made again.
        settings: metric and view of the layers, and what they are set against.
    """

    linkage: str
    cut: int
    chance: TreeChance
    settings: ClusterSettings


def controls(routers: RouterSet, view: str) -> Controls:
    """The number of groups in sight, all else behind a button."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        most = min(groups.MOST_CLUSTERS, routers.n_layers)
        cut = 2
        if most > 2:
            with st.container(width=260):
                cut = links.number("clusters", "Groups", 2, most, min(3, most), slider=True)
        options = st.popover("Options", icon=":material/tune:")
        chance = tree_chance.popover()
    with options:
        metric = layout.metric_choice()
        linkage = links.choice(
            "linkage",
            "Tree",
            [*LINKAGES, CLASSIC],
            "average",
            shown=lambda name: TREE_NAMES.get(name, name),
        )
        settings = ClusterSettings(metric, view, *reference_choice(routers, view))
    return Controls(linkage, cut, chance, settings)


def tree_figure(shown: ShownTree, cut: int, support: BranchSupport | None) -> None:
    """The tree with the support of its branches, on the heatmap it orders."""
    routers, tree, settings = shown.routers, shown.tree, shown.settings
    labels = layout.layer_labels(routers)
    pair = (int(links.chosen("layer", -1)), int(links.chosen("other", -1)))
    picked = pair if min(pair) >= 0 and max(pair) < routers.n_layers else None
    if shown.linkage == CLASSIC:
        chart: alt.TopLevelMixin = figures.layer_dendrogram(
            tree, labels, cut, title="Tree of layers (classic)"
        )
        pick = None
    else:
        similarity = cached.clustered_similarity(routers, settings)
        others = ~np.eye(len(similarity), dtype=bool)
        chart = figures.dendrogram_with_heatmap(
            tree,
            similarity,
            labels,
            settings.metric,
            None,
            cut,
            picked,
            support=support,
            domain=figures.fitted_domain(similarity[others]),
        )
        pick = pick_layers
    layout.figure(
        chart,
        "layer_dendrogram",
        routers,
        words=shown.words,
        table=lambda: clustering_tables.branches_csv(tree, labels, support),
        on_pick=pick,
    )


def branch_support(
    deferred: Deferred, shown: ShownTree, draws: int, seed: int
) -> BranchSupport | None:
    """Support of the branches, behind a button where it takes long."""
    routers = shown.routers
    if shown.linkage == CLASSIC or routers.n_layers < 3:
        return None
    seconds = tree_chance.support_seconds(routers, draws)
    run = (*shown.key, draws, seed)
    if not tree_chance.wanted("run_support", "Compute the support of branches", seconds, run):
        return None
    return tree_chance.support(deferred, shown, draws, seed)


def group_null(deferred: Deferred, shown: ShownTree, draws: int, seed: int) -> GroupNull | None:
    """Silhouettes beside drawn sets, behind a button where they take long."""
    if shown.routers.n_layers < 3:
        return None
    seconds = tree_chance.group_seconds(shown, draws)
    run = (*shown.key, draws, seed)
    if not tree_chance.wanted("run_groups", "Compare the groups with chance", seconds, run):
        return None
    return tree_chance.group_null(deferred, shown, draws, seed)


def support_in_words(support: BranchSupport, labels: list[str]) -> str:
    """Number of branches that are stable beyond those of drawn sets, and the most stable."""
    n = len(support.support) - 1
    found = int(support.stable.sum())
    level = percent(support.level)
    drawn = DRAWN[support.reference]
    against = (
        f"95 in 100 branches of {support.sets} sets of {drawn} have {level} or less "
        f"({support.draws} resampled trees, seed {support.seed})"
    )
    if not found:
        return f"**No branch has more support than branches of {drawn}**: {against}."
    best = int(np.nanargmax(support.support))
    members = groups.layer_ranges(labels, np.flatnonzero(support.members[best]).tolist())
    share = percent(float(support.support[best]))
    return (
        f"**{found} of {n} branches have more support than those of {drawn}**, most of all "
        f"{members} with {share}; {against}."
    )


def depth_answer(deferred: Deferred, routers: RouterSet) -> Headline:
    """The answer on depth; until all four questions are answered, of this one alone.

    The four are judged together, and with many experts the others take a while. Of large sets
    even the similarities do, and the tree comes first.
    """
    settings = null_settings.current()
    key = ("questions", routers.key, settings.draws, settings.seed)
    whole = deferred.get(key, lambda: layout.findings(routers, "/clustering"))
    if whole is not None:
        return whole
    similarity = deferred.get(
        ("similarity", routers.key),
        lambda: cached.layer_similarity(routers, "cka", "canonical"),
        at_once=not layout.is_large(routers),
    )
    if similarity is None:
        return "Do early and late layers cluster separately? Layers are being compared."
    return [ask_depth(similarity, settings.draws - 1, settings.seed).alone(settings.seed)]


def show() -> None:
    """The page."""
    links.through_app()
    routers = data_source.current()
    view = data_source.current_view()
    deferred = Deferred()
    first = depth_answer(deferred, routers)
    layout.heading(
        "Clustering",
        first,
        HOW_TO_READ,
        routers,
        view=view,
        chance=True,
    )
    if routers.n_layers < 2:
        st.info("This router set has one layer, so there is nothing to group.")
        return
    sentence = st.empty()
    progress = st.empty()
    seed = null_settings.current().seed
    chosen = controls(routers, view)
    linkage, settings = chosen.linkage, chosen.settings
    shown = ShownTree(routers, cached.shown_tree(routers, linkage, settings), linkage, settings)
    clusters = cut_tree(shown.tree, chosen.cut)
    with sentence:
        null = group_null(deferred, shown, chosen.chance.sets, seed)
    if null is not None:
        drifts = not isinstance(first, str) and any(one.found for one in first)
        with sentence.container():
            finding_block.line(groups_finding(null, drifts))
    left, right = st.columns(2, gap="medium")
    with right:
        support = branch_support(deferred, shown, chosen.chance.trees, seed)
        tree_figure(shown, chosen.cut, support)
        if support is not None:
            st.caption(support_in_words(support, layout.layer_labels(routers)))
    with left:
        maps.show(deferred, routers, settings, clusters, seed)
        groups.groups_table(routers, clusters)
    with st.expander("How sure? Groups beside chance", icon=":material/casino:"):
        groups.groups_beside_chance(shown, clusters, null)
    layout.share(routers)
    deferred.run(progress)


show()
