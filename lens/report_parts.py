"""What a report consists of: each figure and each table by name.

Every part is computed when it is made; results that several parts share are computed
once. A part that cannot be made for a router set (a map of three layers, say) raises a
`LensError`, which the report notes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from lens import clustering, figures, tables
from lens import experts as expert_values
from lens.embedding import LayerMap, layer_map
from lens.errors import LensError
from lens.gram import RouterGram, router_gram
from lens.matching import expert_chains
from lens.null import Chance, chance_level, chance_samples
from lens.report_traces import trace_parts as trace_parts
from lens.routers import RouterSet
from lens.similarity import (
    LAYER_METRICS,
    AdjacentLayers,
    adjacent_layers,
    expert_correlation,
    expert_similarity_across_layers,
    layer_pair,
    layer_similarity,
)

MEASURES = ("norm", "variance", "l1_l2", "breadth", "max_similarity")


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on besides the data.

    Attributes:
      view: "canonical" or "raw".
      metric: id of the layer metric.
      seed: of t-SNE and UMAP.
    """

    view: str = "canonical"
    metric: str = "cka"
    seed: int = 42


@dataclass(frozen=True)
class Part:
    """One figure or one table.

    Attributes:
      name: its file name without the suffix.
      make: computes it: a chart, or CSV text.
      settings: what it depends on besides the report's settings.
    """

    name: str
    make: Callable[[], alt.TopLevelMixin | str]
    settings: dict[str, Any] = field(default_factory=dict)


def version() -> str:
    """The version of this program: as installed, else as its source says."""
    try:
        return metadata.version("grok-moe-lens")
    except metadata.PackageNotFoundError:
        source = Path(__file__).resolve().parent.parent / "pyproject.toml"
        if not source.is_file():
            return "unknown"
        return str(tomllib.loads(source.read_text(encoding="utf-8"))["project"]["version"])


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
        self.needs(2, "A tree of layers")
        return clustering.layer_tree(self.gram, self.settings.metric)

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

    def map(self, method: str) -> LayerMap:
        if method not in self._maps:
            self._maps[method] = layer_map(
                self.routers,
                self.gram,
                method,
                metric=self.settings.metric,
                seed=self.settings.seed,
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


def router_parts(routers: RouterSet, settings: Settings) -> list[Part]:
    """The figures and tables of a router set."""
    from lens.report_clustering import clustering_parts  # it needs this file's Part

    n = RouterNumbers(routers, settings)
    return [*_layer_parts(n), *_expert_parts(n), *clustering_parts(n)]


def _layer_parts(n: RouterNumbers) -> list[Part]:
    metric, labels = n.settings.metric, n.labels

    def pair_figure() -> alt.TopLevelMixin:
        a, b = n.closest
        count = n.routers.n_experts
        return figures.pair_matrix(
            layer_pair(n.gram, a, b),
            figures.expert_names(labels[a], count),
            figures.expert_names(labels[b], count),
            chance=n.chance_of("matched_cosine"),
        )

    def pair_table() -> str:
        a, b = n.closest
        count = n.routers.n_experts
        names = [figures.expert_names(labels[row], count) for row in (a, b)]
        return tables.pair_csv(layer_pair(n.gram, a, b), *names)

    def null_figure() -> alt.TopLevelMixin:
        chance = n.chance
        if chance is None:
            raise LensError("The raw view has no chance level. Use the canonical view.")
        gram = n.gram
        samples = chance_samples(metric, gram.d_model, gram.n_experts, norm=n.norm)
        mean = float(np.mean(n.adjacent.similarity))
        name = f"mean {LAYER_METRICS[metric].label} of adjacent layers"
        return figures.null_place(mean, chance, name=name, samples=samples)

    return [
        Part(
            "layer_similarity_heatmap",
            lambda: figures.layer_similarity_heatmap(n.similarity, None, labels, metric, n.chance),
        ),
        Part("layer_similarity", lambda: tables.layer_similarity_csv(n.similarity, labels, metric)),
        Part(
            "adjacent_layer_similarity",
            lambda: figures.adjacent_layer_similarity(n.adjacent, n.chance, labels, metric=metric),
        ),
        Part("adjacent_layers", lambda: tables.adjacent_csv(n.adjacent, labels, metric)),
        Part("layer_change", lambda: figures.layer_change(n.adjacent, labels)),
        Part("adjacent_layers_against_chance", null_figure),
        Part("most_similar_layers", pair_figure),
        Part("most_similar_layers_cosines", pair_table),
    ]


def _expert_parts(n: RouterNumbers) -> list[Part]:
    labels, view = n.labels, n.settings.view

    def measure_map(measure: str) -> Callable[[], alt.TopLevelMixin]:
        def make() -> alt.TopLevelMixin:
            if measure == "max_similarity":
                n.needs(2, "A similarity to other layers' experts")
            level = n.measures.baselines.get(measure)
            return figures.expert_map(getattr(n.measures, measure), labels, measure, level)

        return make

    def chains() -> str:
        n.needs(2, "A matching of experts")
        return tables.chains_csv(expert_chains(n.gram), labels)

    return [
        Part(
            "expert_variance_analysis",
            lambda: figures.expert_variance_analysis(n.measures, labels),
        ),
        Part("expert_measures", lambda: tables.expert_measures_csv(n.measures, labels)),
        *(Part(f"expert_map_{measure}", measure_map(measure)) for measure in MEASURES),
        Part(
            "expert_correlation_matrix",
            lambda: figures.expert_correlation_matrix(
                n.correlation.mean(axis=0), chance=0.0 if view == "raw" else None
            ),
        ),
        Part("expert_correlation", lambda: tables.expert_pairs_csv(n.correlation, labels)),
        Part(
            "expert_similarity_across_layers",
            lambda: figures.expert_similarity_across_layers(n.across, labels, view=view),
        ),
        Part("expert_similarity_by_index", lambda: tables.across_layers_csv(n.across, labels)),
        Part("expert_chains", chains),
    ]
