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
from lens.experts.similarity import expert_correlation, expert_similarity_across_layers
from lens.experts.unequal_experts import equal_experts
from lens.experts.within_layers import WithinLayers, within_layers
from lens.layers.bootstrap import Intervals, adjacent_intervals
from lens.layers.chance_level import chance_level
from lens.layers.draws import LayerDraws
from lens.layers.pair_null import LayerNull, adjacent_null, layer_null
from lens.layers.similarity import (
    AdjacentLayers,
    adjacent_layers,
    distances_of,
    layer_similarity,
)
from lens.layers.transitions import Transitions, transitions
from lens.questions import Answer, four_questions
from lens.report.parts import Settings
from lens.routers.gram import RouterGram, router_gram
from lens.routers.router_set import RouterSet
from lens.stats.chance import Chance


class RouterNumbers:
    """Everything a router set's figures show, each computed at first use."""

    def __init__(self, routers: RouterSet, settings: Settings) -> None:
        self.routers = routers
        self.settings = settings
        self.labels = [routers.label(layer) for layer in range(routers.n_layers)]

    @cached_property
    def gram(self) -> RouterGram:
        return router_gram(self.routers, self.settings.view)

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
        metric, view = self.settings.metric, self.settings.view
        reference = default_reference(self.routers.n_layers, view)
        settings = ClusterSettings(metric, view, reference)
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
        upper = np.triu(self.similarity, 1) + np.tril(np.full_like(self.similarity, -np.inf))
        a, b = np.unravel_index(np.argmax(upper), upper.shape)
        return int(a), int(b)

    @cached_property
    def answers(self) -> list[Answer]:
        """The four questions, of canonical routers whatever the view."""
        canonical = self.gram if self.settings.view == "canonical" else router_gram(self.routers)
        settings = {"draws": self.settings.draws - 1, "seed": self.settings.null_seed}
        return four_questions(self.routers, canonical, **settings)

    @cached_property
    def draws(self) -> LayerDraws:
        """Draws of the nulls, as the pages make them."""
        return LayerDraws.of(self.routers, self.settings.draws)

    @cached_property
    def null(self) -> LayerNull:
        self.needs(2, "A null of pairs of layers")
        draws, seed = self.draws.all_pairs(), self.settings.null_seed
        return layer_null(self.gram, self.settings.metric, draws=draws, seed=seed)

    @cached_property
    def group_null(self) -> GroupNull:
        self.needs(3, "A silhouette")
        return group_null(self.clustered, self.tree)

    @cached_property
    def adjacent_null(self) -> np.ndarray:
        self.needs(2, "A null of adjacent layers")
        draws, seed = self.draws.adjacent_pairs(self.settings.metric), self.settings.null_seed
        return adjacent_null(self.gram, self.settings.metric, draws=draws, seed=seed)

    @cached_property
    def transitions(self) -> Transitions:
        self.needs(2, "A comparison of adjacent layers")
        draws, seed = self.draws.adjacent_pairs(self.settings.metric), self.settings.null_seed
        return transitions(self.gram, self.settings.metric, draws=draws, seed=seed)

    @cached_property
    def intervals(self) -> Intervals:
        self.needs(2, "An interval of adjacent layers")
        columns = self.routers.columns(self.settings.view)
        draws = self.draws.resampled_adjacent_pairs()
        seed = self.settings.null_seed
        return adjacent_intervals(columns, self.settings.metric, draws=draws, seed=seed)

    @cached_property
    def chains(self) -> SignificantChains:
        self.needs(2, "A matching of experts")
        return significant_chains(
            self.gram, draws=self.settings.draws, seed=self.settings.null_seed
        )

    @cached_property
    def within(self) -> WithinLayers:
        seed, equal = self.settings.null_seed, None
        if self.settings.view == "canonical":
            equal = equal_experts(self.routers, self.gram, seed=seed)
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
