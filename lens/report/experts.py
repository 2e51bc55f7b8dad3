"""The report's figures and tables of experts."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import numpy as np

from lens import figures
from lens.report.numbers import RouterNumbers
from lens.report.parts import Part
from lens.storage import csv_text
from lens.tables import routers as tables

MEASURES = ("norm", "variance", "l1_l2", "breadth", "max_similarity")


def expert_parts(n: RouterNumbers) -> list[Part]:
    """Experts one by one, along chains of matches, and within their layers."""
    labels, view = n.labels, n.settings.view
    upper = np.triu_indices(n.routers.n_experts, 1)

    def measure_map(measure: str) -> Callable[[], alt.TopLevelMixin]:
        def make() -> alt.TopLevelMixin:
            if measure == "max_similarity":
                n.needs(2, "A similarity to other layers' experts")
            level = n.measures.baselines.get(measure)
            return figures.expert_map(getattr(n.measures, measure), labels, measure, level)

        return make

    def chains() -> str:
        return tables.significant_chains_csv(n.chains, labels)

    def within() -> str:
        found = n.within
        layer, pair = (grid.ravel() for grid in np.indices((len(labels), len(upper[0]))))
        a, b = upper[0][pair], upper[1][pair]
        return csv_text.table_csv(
            {
                "layer": np.asarray(labels)[layer],
                "expert": a,
                "with expert": b,
                "cosine (−1 to 1)": found.cosines[layer, a, b],
                f"p (two-sided; {found.null}, {found.draws} draws, seed {found.seed})": found.p[
                    layer, a, b
                ],
                "q (within the layer)": found.q[layer, a, b],
            }
        )

    return [
        Part(
            "expert_variance_analysis",
            lambda: figures.expert_variance_analysis(n.measures, labels),
        ),
        Part("expert_measures", lambda: tables.expert_measures_csv(n.measures, labels, n.lengths)),
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
        Part("expert_chains_through_depth", lambda: figures.expert_chains(n.chains, labels)),
        Part("expert_chains", chains),
        Part("expert_cosines_within_layers", within),
    ]
