"""The report's four questions, and its figures and tables of layers."""

from __future__ import annotations

import altair as alt
import numpy as np

from lens import figures
from lens.errors import LensError
from lens.layers.chance_level import chance_samples
from lens.layers.similarity import LAYER_METRICS, layer_pair
from lens.report.findings import findings_csv
from lens.report.numbers import RouterNumbers
from lens.report.parts import Part
from lens.storage import csv_text
from lens.tables import routers as tables


def question_parts(n: RouterNumbers) -> list[Part]:
    """The four questions as a table, and what else is found."""

    def table() -> str:
        return csv_text.table_csv(
            {
                "question": [answer.question for answer in n.answers],
                "in short": [answer.plain for answer in n.answers],
                "answer": [answer.sentence for answer in n.answers],
                "effect": [answer.effect_name for answer in n.answers],
                "value": [answer.effect for answer in n.answers],
                "set against": [answer.beats for answer in n.answers],
                "mean of the draws": [answer.null_mean for answer in n.answers],
                "2.5 % of the draws": [answer.null_low for answer in n.answers],
                "97.5 % of the draws": [answer.null_high for answer in n.answers],
                "p": [answer.p_value for answer in n.answers],
                "p for four questions (Holm)": [answer.p_adjusted for answer in n.answers],
                "finding at 1 % (1 yes, 0 no)": [int(a.distinguishable) for a in n.answers],
            }
        )

    return [Part("four_questions", table), Part("findings", lambda: findings_csv(n))]


def layer_parts(n: RouterNumbers) -> list[Part]:
    """Similarity of layers, pair by pair and neighbour by neighbour, beside its reference."""
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

    def against_chance() -> alt.TopLevelMixin:
        return figures.layer_null_heatmap(n.null, n.similarity, None, labels)

    def null_figure() -> alt.TopLevelMixin:
        chance = n.chance
        if chance is None:
            raise LensError("The raw view has no chance level. Use the canonical view.")
        gram = n.gram
        samples = chance_samples(metric, gram.d_model, gram.n_experts, norm=n.norm)
        mean = float(np.mean(n.adjacent.similarity))
        name = f"mean {LAYER_METRICS[metric].label} of adjacent layers"
        return figures.value_against_null(mean, chance, name=name, samples=samples)

    return [
        Part(
            "layer_similarity_heatmap",
            lambda: figures.layer_similarity_heatmap(n.similarity, None, labels, metric, n.chance),
        ),
        Part("layer_similarity", lambda: tables.layer_similarity_csv(n.similarity, labels, metric)),
        Part("layer_similarity_against_chance", against_chance),
        Part(
            "layer_similarity_pairs",
            lambda: tables.layer_null_csv(n.null, n.similarity, labels),
        ),
        Part("adjacent_layer_similarity", lambda: _neighbours(n)),
        Part(
            "adjacent_layers",
            lambda: tables.adjacent_csv(n.adjacent, labels, metric, n.transitions),
        ),
        Part("layer_change", lambda: figures.layer_change(n.adjacent, labels)),
        Part("adjacent_layers_against_chance", null_figure),
        Part("most_similar_layers", pair_figure),
        Part("most_similar_layers_cosines", pair_table),
    ]


def _neighbours(n: RouterNumbers) -> alt.TopLevelMixin:
    return figures.adjacent_against_chance(
        n.judged_neighbours,
        n.drawn_series,
        n.transitions,
        n.labels,
        n.settings.metric,
        n.intervals,
        n.reference,
    )
