"""The analyses with Streamlit's caches in front of them: same names, no logic.

Every door takes the router set where the function behind it takes a Gram matrix.
Keys are `RouterSet.key`, the hash of everything in a set that can change a
result, and plain options: Streamlit itself hashes only a sample of big arrays,
so that sets which differ in one weight would share an entry.
"""

# long file: one door for each analysis, all under the same rule of keys.

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import numpy as np
import streamlit as st

from lens import questions
from lens.clustering import (
    branch_support,
    map_stability,
    reference_sets,
)
from lens.clustering import (
    maps as embedding,
)
from lens.clustering import (
    tree_null as cluster_null,
)
from lens.clustering import (
    trees as clustering,
)
from lens.clustering.maps import CLASSIC, LayerMap, MapSettings
from lens.clustering.reference_sets import ClusterSettings
from lens.clustering.trees import LayerTree
from lens.experts import chains, nearest, same_expert, selection, unequal_experts
from lens.experts import measures as experts
from lens.experts import similarity as expert_similarity
from lens.experts import within_layers as layer_geometry
from lens.experts.chains import SignificantChains
from lens.experts.measures import ExpertMeasures
from lens.experts.nearest import NearExpert
from lens.experts.same_expert import MatchedLinks, link_draws
from lens.experts.selection import Breadth
from lens.experts.unequal_experts import EqualExperts, ExpertInequality, Largest
from lens.experts.within_layers import WithinLayers
from lens.layers import bootstrap, mixing_null, shared_directions
from lens.layers import chance_level as null
from lens.layers import pair_null as layer_null
from lens.layers import similarity as measures
from lens.layers import transitions as changes
from lens.layers.bootstrap import Interval, Intervals
from lens.layers.draws import DRAWS, SEED, LayerDraws
from lens.layers.pair_null import LayerNull
from lens.layers.references import Reference
from lens.layers.shared_directions import SharedDirections
from lens.layers.similarity import AdjacentLayers, LayerPair
from lens.layers.transitions import Transitions
from lens.model_pairs import comparison as two_sets
from lens.model_pairs.comparison import Comparison, Structure
from lens.model_pairs.depth_profiles import Profile, depth_profiles
from lens.questions import Answer
from lens.recipe.steps import remembered
from lens.routers import effective_dimension, gram
from lens.routers.gram import RouterGram
from lens.routers.router_set import RouterSet
from lens.routers.shuffled_coordinates import permuted_sets
from lens.stats.chance import Chance

if not st.runtime.exists():
    # In a program results are kept in memory for as long as it runs: nothing to warn of.
    logging.getLogger("streamlit.runtime.caching.cache_data_api").setLevel(logging.ERROR)

_KEYS: dict[Any, Any] = {RouterSet: lambda routers: routers.key}
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result", covariant=True)


class Door(Protocol[Arguments, Result]):
    """An analysis with a cache in front of it."""

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result: ...

    def clear(self) -> None:
        """Forget every result."""


def _cache(
    keep: Callable[..., Any],
) -> Callable[[Callable[Arguments, Result]], Door[Arguments, Result]]:
    """A cache that takes an argument left out, and the same one written down, for one call."""

    def door_of(function: Callable[Arguments, Result]) -> Door[Arguments, Result]:
        kept, signature = keep(function), inspect.signature(function)

        @remembered
        @functools.wraps(function)
        def door(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return cast(Result, kept(*bound.args, **bound.kwargs))

        door.clear = kept.clear  # type: ignore[attr-defined]
        return cast(Door[Arguments, Result], door)

    return door_of


# One for each page, view and option that a few people look at in turn.
_data = _cache(st.cache_data(hash_funcs=_KEYS, max_entries=64, show_spinner=False))
_few = _cache(st.cache_resource(hash_funcs=_KEYS, max_entries=4, show_spinner=False))


@_few
def router_gram(routers: RouterSet, view: str = "canonical") -> RouterGram:
    return gram.router_gram(routers, view)


@_few
def without_shared(routers: RouterSet, directions: int | None = None) -> SharedDirections:
    return shared_directions.without_shared(router_gram(routers), directions)


@_data
def layer_similarity(
    routers: RouterSet, metric: str = "cka", view: str = "canonical"
) -> np.ndarray:
    return measures.layer_similarity(router_gram(routers, view), metric)


@_data
def layer_pair(routers: RouterSet, a: int, b: int, view: str = "canonical") -> LayerPair:
    return measures.layer_pair(router_gram(routers, view), a, b)


@_data
def adjacent_layers(
    routers: RouterSet, metric: str = "cka", view: str = "canonical"
) -> AdjacentLayers:
    return measures.adjacent_layers(router_gram(routers, view), metric)


@_data
def expert_similarity_across_layers(routers: RouterSet, view: str = "canonical") -> np.ndarray:
    return expert_similarity.expert_similarity_across_layers(router_gram(routers, view))


@_data
def expert_correlation(routers: RouterSet, view: str = "canonical") -> np.ndarray:
    return expert_similarity.expert_correlation(router_gram(routers, view))


@_data
def measures_within(routers: RouterSet, view: str = "canonical") -> ExpertMeasures:
    """The measures that need one layer at a time: there at once, where all products take long."""
    return experts.expert_measures(routers, router_gram(routers, view), view, elsewhere=False)


@_data
def expert_measures(routers: RouterSet, view: str = "canonical") -> ExpertMeasures:
    elsewhere = experts.max_similarity(router_gram(routers, view))
    return replace(measures_within(routers, view), max_similarity=elsewhere)


@_data
def breadth(routers: RouterSet, view: str = "canonical") -> Breadth:
    return selection.breadth(router_gram(routers, view), routers.top_k, biases=routers.logit_biases)


@_data
def near_experts(
    routers: RouterSet, layer: int, expert: int, n: int = 8, view: str = "canonical"
) -> list[NearExpert]:
    return nearest.near_experts(router_gram(routers, view), layer, expert, n)


@_data
def layer_tree(
    routers: RouterSet, metric: str = "cka", method: str = "average", view: str = "canonical"
) -> LayerTree:
    return clustering.layer_tree(router_gram(routers, view), metric, method)


@_data
def classic_tree(routers: RouterSet) -> LayerTree:
    return clustering.classic_tree(routers)


@_data
def chance_level(
    metric: str, routers: RouterSet, view: str = "canonical", draws: int = DRAWS, seed: int = SEED
) -> Chance:
    norm = null.typical_norm(router_gram(routers, view))
    draws = LayerDraws.of(routers, draws).unrelated_routers(metric)
    return null.chance_level(metric, routers.d_model, routers.n_experts, draws, seed, norm, view)


@_data
def four_questions(
    routers: RouterSet, draws: int = questions.DRAWS, seed: int = SEED
) -> list[Answer]:
    gram_ = router_gram(routers, "canonical")
    links = matched_links(routers, "canonical", draws, seed) if routers.n_layers > 1 else None
    return questions.four_questions(
        routers,
        gram_,
        draws=draws,
        seed=seed,
        similarity=layer_similarity(routers, "cka"),
        links=links,
        equal=equal_experts(routers, seed) if questions.asks_breadth(routers) else None,
    )


@_data
def unbiased_dimension(routers: RouterSet, view: str = "canonical") -> float:
    return effective_dimension.unbiased_dimension(router_gram(routers, view))


# --- against chance; matching many experts is drawn as often as it can be afforded ---


@remembered
def matched_links(
    routers: RouterSet, view: str = "canonical", draws: int = DRAWS, seed: int = SEED
) -> MatchedLinks:
    """The matches of adjacent layers; numbers of draws that come to the same share a result."""
    return _matched_links(routers, view, link_draws(routers.n_experts, draws), seed)


@_data
def _matched_links(routers: RouterSet, view: str, draws: int, seed: int) -> MatchedLinks:
    return same_expert.matched_links(router_gram(routers, view), draws=draws, seed=seed)


@_few
def equal_experts(routers: RouterSet, seed: int = SEED) -> EqualExperts:
    return unequal_experts.equal_experts(routers, router_gram(routers), seed=seed)


@_data
def expert_lengths(routers: RouterSet, seed: int = SEED) -> ExpertInequality:
    return unequal_experts.expert_lengths(router_gram(routers), equal_experts(routers, seed))


@_data
def longest_expert(routers: RouterSet, seed: int = SEED) -> Largest:
    return unequal_experts.longest_expert(router_gram(routers), equal_experts(routers, seed))


@_data
def layer_null_of(
    routers: RouterSet,
    metric: str = "cka",
    view: str = "canonical",
    reference: Reference = "shared",
    directions: int | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> LayerNull:
    if reference == "shared":
        shared = without_shared(routers, directions)
        return mixing_null.null_beyond_shared(shared, metric, draws=draws, seed=seed)
    draws = LayerDraws.of(routers, draws).all_pairs()
    return layer_null.layer_null(router_gram(routers, view), metric, draws=draws, seed=seed)


def permutation_null(
    routers: RouterSet,
    metric: str,
    view: str,
    shuffles: int,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Iterator[LayerNull]:
    """The permutation null so far, shuffle by shuffle, so that a page can show it grow.

    Args:
        routers: the set.
        metric: an id of `lens.layers.similarity.LAYER_METRICS`.
        view: "canonical" or "raw".
        shuffles: of the coordinates of all layers.
        draws: of the rotation null in whose units the shuffled pairs are measured.
        seed: of both.
    """
    against = layer_null_of(routers, metric, view, "unrelated", None, draws, seed)
    sets = permuted_sets(routers.columns(view), shuffles, seed)
    return layer_null.permutation_null(router_gram(routers, view), sets, against, seed=seed)


@remembered
def shuffled_null(
    routers: RouterSet,
    metric: str,
    view: str,
    shuffles: int,
    draws: int = DRAWS,
    seed: int = SEED,
) -> LayerNull:
    """The permutation null of all its shuffles; see `permutation_null`."""
    return list(permutation_null(routers, metric, view, shuffles, draws, seed))[-1]


@_data
def null_of_pair(
    routers: RouterSet,
    a: int,
    b: int,
    metric: str = "cka",
    view: str = "canonical",
    draws: int = DRAWS,
    seed: int = SEED,
) -> np.ndarray:
    draws = LayerDraws.of(routers, draws).one_pair(metric)
    gram_ = router_gram(routers, view)
    return layer_null.null_of_pair(gram_, a, b, metric, draws=draws, seed=seed)


@_data
def mixed_pair(
    routers: RouterSet,
    a: int,
    b: int,
    directions: int | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> np.ndarray:
    gram_ = without_shared(routers, directions).gram
    draws = LayerDraws.of(routers, draws).one_pair("matched_cosine")
    return mixing_null.mixed_pair(gram_, a, b, draws=draws, seed=seed)


@_data
def drawn_series(
    routers: RouterSet,
    metric: str = "cka",
    view: str = "canonical",
    reference: Reference = "shared",
    directions: int | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> np.ndarray:
    found = layer_null_of(routers, metric, view, reference, directions, draws, seed)
    gram_ = judged_gram(routers, view, reference, directions)
    draws = LayerDraws.of(routers, draws).adjacent_pairs(metric)
    return changes.drawn_series(gram_, found, draws=draws, seed=seed)


@remembered
def judged_gram(
    routers: RouterSet, view: str, reference: Reference, directions: int | None
) -> RouterGram:
    """The inner products that are set against a reference: what is left of the layers, or all."""
    if reference == "shared":
        return without_shared(routers, directions).gram
    return router_gram(routers, view)


@_data
def judged_neighbours(
    routers: RouterSet,
    metric: str = "cka",
    view: str = "canonical",
    reference: Reference = "shared",
    directions: int | None = None,
) -> AdjacentLayers:
    return measures.adjacent_layers(judged_gram(routers, view, reference, directions), metric)


@_data
def transitions(
    routers: RouterSet,
    metric: str = "cka",
    view: str = "canonical",
    reference: Reference = "shared",
    directions: int | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Transitions:
    neighbours = judged_neighbours(routers, metric, view, reference, directions)
    series = drawn_series(routers, metric, view, reference, directions, draws, seed)
    return changes.transitions(neighbours, series, seed)


@_data
def pair_interval(
    routers: RouterSet,
    a: int,
    b: int,
    metric: str = "cka",
    view: str = "canonical",
    draws: int = DRAWS,
    seed: int = SEED,
) -> Interval:
    draws = LayerDraws.of(routers, draws).resampled_pair()
    columns = routers.columns(view)
    return bootstrap.pair_interval(columns, a, b, metric, draws=draws, seed=seed)


@_data
def adjacent_intervals(
    routers: RouterSet,
    metric: str = "cka",
    view: str = "canonical",
    draws: int = DRAWS,
    seed: int = SEED,
) -> Intervals:
    draws = LayerDraws.of(routers, draws).resampled_adjacent_pairs()
    columns = routers.columns(view)
    return bootstrap.adjacent_intervals(columns, metric, draws=draws, seed=seed)


@_data
def significant_chains(
    routers: RouterSet, view: str = "canonical", draws: int = DRAWS, seed: int = SEED
) -> SignificantChains:
    links = matched_links(routers, view, draws, seed) if routers.n_layers > 1 else None
    return chains.significant_chains(router_gram(routers, view), links=links, seed=seed)


@_data
def within_layers(
    routers: RouterSet, view: str = "canonical", draws: int = DRAWS, seed: int = SEED
) -> WithinLayers:
    equal = equal_experts(routers, seed) if view == "canonical" else None
    return layer_geometry.within_layers(router_gram(routers, view), equal, draws=draws, seed=seed)


# --- two router sets ---


@_data
def comparison(
    a: RouterSet,
    b: RouterSet,
    metric: str = "cka",
    view: str = "canonical",
    draws: int = DRAWS,
    seed: int = SEED,
) -> Comparison:
    return two_sets.compare_routers(a, b, view, metric, draws=draws, seed=seed)


@_data
def structure(
    a: RouterSet, b: RouterSet, view: str = "canonical", draws: int = DRAWS, seed: int = SEED
) -> Structure:
    return two_sets.compare_structure(a, b, view, draws=draws, seed=seed)


@_data
def profiles(
    a: RouterSet, b: RouterSet, view: str = "canonical", draws: int = DRAWS, seed: int = SEED
) -> list[Profile]:
    return depth_profiles(a, b, view, draws=draws, seed=seed)


# --- trees and maps against chance: small blocks of draws, so that a page can show them early ---

_blocks = _cache(st.cache_data(hash_funcs=_KEYS, max_entries=512, show_spinner=False))


@remembered
def clustered_layers(routers: RouterSet, settings: ClusterSettings) -> ClusteredLayers:
    """What is clustered, of inner products that are kept."""
    shared = (
        without_shared(routers, settings.directions) if settings.reference == "shared" else None
    )
    gram_ = router_gram(routers, settings.view)
    return reference_sets.clustered_layers(routers, settings, gram=gram_, shared=shared)


@_data
def clustered_similarity(routers: RouterSet, settings: ClusterSettings) -> np.ndarray:
    layers = clustered_layers(routers, settings)
    if layers.unchanged:
        return layer_similarity(routers, settings.metric, settings.view)
    return measures.layer_similarity(layers.gram, settings.metric)


def _clustered_distances(routers: RouterSet, settings: ClusterSettings) -> np.ndarray:
    return measures.distances_of(clustered_similarity(routers, settings), settings.metric)


@_data
def clustered_tree(routers: RouterSet, method: str, settings: ClusterSettings) -> LayerTree:
    return clustering.tree_of_distances(_clustered_distances(routers, settings), method)


@remembered
def shown_tree(routers: RouterSet, linkage: str, settings: ClusterSettings) -> LayerTree:
    """The tree of a linkage, or the classic one."""
    if linkage == CLASSIC:
        return classic_tree(routers)
    return clustered_tree(routers, linkage, settings)


@_data
def layer_map(
    routers: RouterSet, method: str, settings: MapSettings, clustered: ClusterSettings
) -> LayerMap:
    distances = None
    if settings.metric == clustered.metric and method != "pca":
        distances = _clustered_distances(routers, clustered)
    gram_ = clustered_layers(routers, clustered).gram
    return embedding.layer_map(routers, gram_, method, settings, distances=distances)


@_data
def pair_moments(
    routers: RouterSet, settings: ClusterSettings
) -> reference_sets.PairMoments | None:
    return reference_sets.pair_moments(clustered_layers(routers, settings))


@_blocks
def drawn_scores(
    routers: RouterSet, method: str, settings: ClusterSettings, draws: int, seed: int
) -> np.ndarray:
    layers, moments = clustered_layers(routers, settings), pair_moments(routers, settings)
    return cluster_null.drawn_scores(layers, method, draws, seed, moments)


@_blocks
def shuffled_classic_scores(routers: RouterSet, draws: int, seed: int) -> np.ndarray:
    return cluster_null.shuffled_classic_scores(routers, draws, seed)


@_blocks
def recurrences(
    routers: RouterSet, method: str, settings: ClusterSettings, draws: int, seed: int
) -> np.ndarray:
    members = branch_support.branches(clustered_tree(routers, method, settings).linkage)
    columns = clustered_layers(routers, settings).columns()
    return branch_support.recurrences(members, columns, settings.metric, method, draws, seed)


@_blocks
def drawn_support(
    routers: RouterSet, method: str, settings: ClusterSettings, draws: int, seed: int
) -> np.ndarray:
    return branch_support.drawn_support(clustered_layers(routers, settings), method, draws, seed)


@remembered
def group_null(
    routers: RouterSet, linkage: str, settings: ClusterSettings, draws: int, seed: int
) -> cluster_null.GroupNull:
    """The silhouettes of a tree beside those of drawn sets, which are kept block by block."""
    blocks = cluster_null.blocks(draws, seed)
    drawn = np.concatenate([block_of_scores(routers, linkage, settings, *one) for one in blocks])
    tree = shown_tree(routers, linkage, settings)
    if linkage == CLASSIC:
        return cluster_null.summary(tree, drawn, seed)
    words = clustered_layers(routers, settings).words
    return cluster_null.summary(tree, drawn, seed, settings.reference, words)


def block_of_scores(
    routers: RouterSet, linkage: str, settings: ClusterSettings, draws: int, seed: int
) -> np.ndarray:
    """One block of drawn sets for the tree of a linkage."""
    if linkage == CLASSIC:
        return shuffled_classic_scores(routers, draws, seed)
    return drawn_scores(routers, linkage, settings, draws, seed)


@remembered
def support_of_branches(
    routers: RouterSet,
    linkage: str,
    settings: ClusterSettings,
    trees: int,
    sets: int,
    draws: int,
    seed: int,
) -> branch_support.BranchSupport:
    """The support of a tree's branches beside that of drawn sets, which are kept block by block.

    Args:
        routers: the set.
        linkage: by which layers join.
        settings: what is clustered.
        trees: made again of the layers.
        sets: drawn.
        draws: trees made again of each drawn set.
        seed: of all.
    """
    blocks = cluster_null.blocks(trees, seed, branch_support.BLOCK)
    counts = sum(recurrences(routers, linkage, settings, *one) for one in blocks)
    drawn = [
        drawn_support(routers, linkage, settings, draws, own)
        for own in branch_support.set_seeds(seed, sets)
    ]
    members = branch_support.branches(shown_tree(routers, linkage, settings).linkage)
    return branch_support.summary(
        members, np.asarray(counts), trees, drawn, seed, settings.reference
    )


@_data
def trust_null(
    routers: RouterSet,
    method: str,
    settings: MapSettings,
    clustered: ClusterSettings,
    null_seed: int = SEED,
) -> map_stability.TrustNull:
    layers = clustered_layers(routers, clustered)
    found = layer_map(routers, method, settings, clustered)
    moments = pair_moments(routers, clustered) if method != "pca" else None
    return map_stability.trust_null(layers, found, seed=null_seed, moments=moments)


@_data
def layer_map_stability(
    routers: RouterSet, method: str, settings: MapSettings, clustered: ClusterSettings
) -> map_stability.MapStability:
    layers = clustered_layers(routers, clustered)
    return map_stability.layer_map_stability(layers, method, settings)
