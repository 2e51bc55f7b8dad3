"""Everything that a report of a router set shows, each number computed once."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from lens.clustering import trees as clustering
from lens.clustering.maps import LayerMap, MapSettings, layer_map
from lens.clustering.reference_sets import (
    ClusteredLayers,
    ClusterSettings,
    clustered_layers,
    default_reference,
)
from lens.clustering.tree_null import GroupNull, group_null
from lens.errors import LensError
from lens.experts import measures as expert_values
from lens.experts.chains import SignificantChains, significant_chains
from lens.experts.same_expert import MatchedLinks, matched_links
from lens.experts.similarity import expert_correlation, expert_similarity_across_layers
from lens.experts.unequal_experts import (
    EqualExperts,
    ExpertInequality,
    equal_experts,
    expert_lengths,
)
from lens.experts.within_layers import WithinLayers, within_layers
from lens.layers.bootstrap import Intervals, adjacent_intervals
from lens.layers.chance_level import chance_level
from lens.layers.draws import LayerDraws
from lens.layers.mixing_null import null_beyond_shared
from lens.layers.pair_null import LayerNull, layer_null, permutation_null
from lens.layers.references import Reference
from lens.layers.shared_directions import SharedDirections, without_shared
from lens.layers.similarity import (
    AdjacentLayers,
    adjacent_layers,
    distances_of,
    layer_similarity,
    most_alike,
)
from lens.layers.transitions import Transitions, drawn_series, transitions
from lens.questions import Answer, asks_breadth, four_questions
from lens.report.parts import Settings
from lens.routers.gram import RouterGram, router_gram
from lens.routers.router_set import RouterSet, layer_labels
from lens.routers.shuffled_coordinates import permuted_sets
from lens.stats.chance import Chance

# Draws of shuffled coordinates, each of which costs a product of all columns.
SHUFFLES = 20


class RouterNumbers:
    """Everything a router set's figures show, each computed at first use."""

    def __init__(self, routers: RouterSet, settings: Settings) -> None:
        self.routers = routers
        self.settings = settings
        self.labels = layer_labels(routers)

    @cached_property
    def gram(self) -> RouterGram:
        return router_gram(self.routers, self.settings.view)

    @property
    def reference(self) -> Reference:
        """What layers are set against, as asked for, or what this set and view allow."""
        known = default_reference(self.routers.n_layers, self.settings.view) == "shared"
        asked = self.settings.reference
        return asked if known or asked != "shared" else "unrelated"

    @cached_property
    def chance(self) -> Chance | None:
        """Chance of the metric; None in the raw view, whose shared column has no null."""
        return self.chance_of(self.settings.metric)

    def chance_of(self, metric: str) -> Chance | None:
        if self.settings.view == "raw":
            return None
        return chance_level(metric, self.gram.d_model, self.gram.n_experts, norm=self.norm)

    @property
    def norm(self) -> float | None:
        """Typical Frobenius norm of a layer, on which only one metric's chance depends."""
        if self.settings.metric != "euclidean":
            return None
        return float(np.sqrt(np.mean(np.sum(self.gram.norms**2, axis=1))))

    @cached_property
    def similarity(self) -> np.ndarray:
        self.needs(2, "A similarity of layers")
        return layer_similarity(self.gram, self.settings.metric)

    @cached_property
    def adjacent(self) -> AdjacentLayers:
        self.needs(2, "A comparison of adjacent layers")
        return adjacent_layers(self.gram, self.settings.metric)

    @cached_property
    def tree(self) -> clustering.LayerTree:
        distances = distances_of(self.clustered_similarity, self.settings.metric)
        return clustering.tree_of_distances(distances, "average")

    @cached_property
    def clustered(self) -> ClusteredLayers:
        """What trees and maps are made of, and what they are set against."""
        settings = ClusterSettings(
            self.settings.metric, self.settings.view, self.reference, self.settings.directions
        )
        return clustered_layers(self.routers, settings, gram=self.gram)

    @cached_property
    def clustered_similarity(self) -> np.ndarray:
        self.needs(2, "A tree of layers")
        if self.clustered.unchanged:
            return self.similarity
        return layer_similarity(self.clustered.gram, self.settings.metric)

    @cached_property
    def classic_tree(self) -> clustering.LayerTree:
        self.needs(2, "A tree of layers")
        return clustering.classic_tree(self.routers)

    @cached_property
    def measures(self) -> expert_values.ExpertMeasures:
        return expert_values.expert_measures(self.routers, self.gram, self.settings.view)

    @cached_property
    def correlation(self) -> np.ndarray:
        return expert_correlation(self.gram)

    @cached_property
    def across(self) -> np.ndarray:
        self.needs(2, "A similarity across layers")
        return expert_similarity_across_layers(self.gram)

    @cached_property
    def closest(self) -> tuple[int, int]:
        """The two layers that are most alike."""
        return most_alike(self.similarity)

    @cached_property
    def canonical(self) -> RouterGram:
        return self.gram if self.settings.view == "canonical" else router_gram(self.routers)

    @cached_property
    def links(self) -> MatchedLinks:
        """Matches of adjacent layers, of canonical routers whatever the view."""
        settings = self.settings
        return matched_links(self.canonical, draws=settings.draws, seed=settings.null_seed)

    @cached_property
    def equal(self) -> EqualExperts:
        return equal_experts(self.routers, self.canonical, seed=self.settings.null_seed)

    @cached_property
    def lengths(self) -> ExpertInequality | None:
        """Every expert's length beside equal experts; only canonical columns can be dealt."""
        if self.settings.view != "canonical":
            return None
        return expert_lengths(self.canonical, self.equal)

    @cached_property
    def answers(self) -> list[Answer]:
        """The four questions, of canonical routers whatever the view."""
        return four_questions(
            self.routers,
            self.canonical,
            draws=self.settings.draws - 1,
            seed=self.settings.null_seed,
            links=self.links if self.routers.n_layers > 1 else None,
            equal=self.equal if asks_breadth(self.routers) else None,
        )

    @cached_property
    def draws(self) -> LayerDraws:
        """Draws of the nulls, as the pages make them."""
        return LayerDraws.of(self.routers, self.settings.draws)

    @cached_property
    def shared(self) -> SharedDirections:
        return without_shared(self.gram, self.settings.directions)

    @property
    def judged(self) -> RouterGram:
        """What is set against the reference: the layers, or what is left of them."""
        return self.shared.gram if self.reference == "shared" else self.gram

    @cached_property
    def null(self) -> LayerNull:
        self.needs(2, "A null of pairs of layers")
        settings = self.settings
        if self.reference == "shared":
            return null_beyond_shared(
                self.shared, settings.metric, draws=settings.draws, seed=settings.null_seed
            )
        draws = self.draws.all_pairs()
        turned = layer_null(self.gram, settings.metric, draws=draws, seed=settings.null_seed)
        if self.reference == "unrelated":
            return turned
        columns = self.routers.columns(settings.view)
        sets = permuted_sets(columns, SHUFFLES, settings.null_seed)
        *_, shuffled = permutation_null(self.gram, sets, turned, seed=settings.null_seed)
        return shuffled

    @cached_property
    def group_null(self) -> GroupNull:
        self.needs(3, "A silhouette")
        return group_null(self.clustered, self.tree)

    @cached_property
    def judged_neighbours(self) -> AdjacentLayers:
        return adjacent_layers(self.judged, self.settings.metric)

    @cached_property
    def drawn_series(self) -> np.ndarray:
        self.needs(2, "A null of adjacent layers")
        draws, seed = self.draws.adjacent_pairs(self.settings.metric), self.settings.null_seed
        return drawn_series(self.judged, self.null, draws=draws, seed=seed)

    @cached_property
    def transitions(self) -> Transitions:
        self.needs(2, "A comparison of adjacent layers")
        return transitions(self.judged_neighbours, self.drawn_series, self.settings.null_seed)

    @cached_property
    def intervals(self) -> Intervals | None:
        """Of adjacent layers; None where they are judged by what is left of them."""
        self.needs(2, "An interval of adjacent layers")
        if self.null.directions:
            return None
        columns = self.routers.columns(self.settings.view)
        draws = self.draws.resampled_adjacent_pairs()
        seed = self.settings.null_seed
        return adjacent_intervals(columns, self.settings.metric, draws=draws, seed=seed)

    @cached_property
    def chains(self) -> SignificantChains:
        self.needs(2, "A matching of experts")
        links = self.links if self.settings.view == "canonical" else None
        return significant_chains(
            self.gram, links=links, draws=self.settings.draws, seed=self.settings.null_seed
        )

    @cached_property
    def within(self) -> WithinLayers:
        seed, equal = self.settings.null_seed, None
        if self.settings.view == "canonical":
            equal = self.equal
        return within_layers(self.gram, equal, draws=self.settings.draws, seed=seed)

    @property
    def map_settings(self) -> MapSettings:
        return MapSettings(metric=self.settings.metric, seed=self.settings.seed)

    def map(self, method: str) -> LayerMap:
        if method not in self._maps:
            self._maps[method] = layer_map(
                self.routers, self.clustered.gram, method, self.map_settings
            )
        return self._maps[method]

    @cached_property
    def _maps(self) -> dict[str, LayerMap]:
        return {}

    def needs(self, n_layers: int, what: str) -> None:
        if self.routers.n_layers < n_layers:
            raise LensError(
                f"{what} needs at least {n_layers} layers; this router set has "
                f"{self.routers.n_layers}."
            )
