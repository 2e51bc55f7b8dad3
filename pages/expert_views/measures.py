"""All experts in one measure: maps, the table, the classic statistics."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import cached, figures
from lens.experts.measures import ExpertMeasures
from lens.experts.unequal_experts import ExpertInequality, longest_in_words
from lens.many_prompts.expert_cards import ExpertCards
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables import expert_cards
from lens.tables import routers as router_tables
from pages.expert_views import takes
from pages.guide import tables
from pages.notes import kept
from pages.shell import downloads, layout, links, null_settings
from pages.shell.picks import OnPick, pick_expert
from pages.shell.session_keys import selected_rows

MEASURES = {
    "takes": "What it takes",
    "breadth": "Breadth",
    "norm": "Norm",
    "max_similarity": "Nearest elsewhere",
    "variance": "Variance",
    "l1_l2": "L1 / L2",
    "load": "Load",
}


def measured(measures: ExpertMeasures, load: np.ndarray | None, measure: str) -> np.ndarray:
    """Values of one measure of all experts [layer, expert]."""
    if measure == "load":
        assert load is not None, "the load is offered where there is one"
        return load
    return {
        "breadth": measures.breadth,
        "norm": measures.norm,
        "max_similarity": measures.max_similarity,
        "variance": measures.variance,
        "l1_l2": measures.l1_l2,
    }[measure]


def coloured(
    routers: RouterSet,
    measures: ExpertMeasures,
    load: np.ndarray | None,
    measure: str,
    view: str,
    picked: tuple[int, int],
) -> None:
    """The map of a measure, and whether its ranking is another in the other view."""
    if measure == "max_similarity":
        measures = cached.expert_measures(routers, view)
    expert_map(routers, measures, load, measure, view, picked)
    if measure != "load":
        full = cached.expert_measures(routers, view)
        other = cached.expert_measures(routers, "raw" if view == "canonical" else "canonical")
        layout.ranking_note(
            measured(full, load, measure), measured(other, load, measure), "experts"
        )


def takes_map(
    routers: RouterSet,
    cards: ExpertCards,
    picked: tuple[int, int] | None = None,
    *,
    on_pick: OnPick = pick_expert,
) -> None:
    """The kind of text that each expert takes in the stored run."""
    labels = layout.layer_labels(routers)
    layout.figure(
        takes.kinds_map(
            cards,
            labels,
            chance="kinds permuted over whole texts",
            picked=picked,
            given=kept.given_names(routers.sha256),
        ),
        "expert_map",
        routers,
        scale=1.5 if routers.n_experts <= 8 else 1.0,
        stretch=True,
        words=("takes",),
        table=lambda: expert_cards.kinds_csv(cards, labels),
        on_pick=on_pick,
    )


def expert_map(
    routers: RouterSet,
    measures: ExpertMeasures,
    load: np.ndarray | None,
    measure: str,
    view: str,
    picked: tuple[int, int],
) -> None:
    """One measure of all experts."""
    values = measured(measures, load, measure)
    chance = 1 / routers.n_experts if measure == "load" else measures.baselines.get(measure)
    labels = layout.layer_labels(routers)
    names = [f"E{expert}" for expert in range(routers.n_experts)]
    layout.figure(
        figures.expert_map(
            values, labels, measure, chance, picked, given=kept.given_names(routers.sha256)
        ),
        "expert_map",
        routers,
        scale=0.92 if routers.n_layers <= 32 else 0.72,
        stretch=True,
        words=(measure, view),
        table=lambda: csv_text.matrix_csv(values, labels, names, "layer"),
        on_pick=pick_expert,
    )
    if measure in ("breadth", "norm") and view == "canonical":
        lengths_in_words(routers)


def lengths_in_words(routers: RouterSet) -> None:
    """How many experts are longer than equal experts, which decides breadth to first order."""
    seed = null_settings.current().seed
    with st.spinner("Drawing equal experts …"):
        longest = cached.longest_expert(routers, seed)
        lengths = cached.expert_lengths(routers, seed)
    name = routers.label(longest.layer, longest.expert)
    st.caption(longest_in_words(longest, lengths, name))


def table(routers: RouterSet, measures: ExpertMeasures, load: np.ndarray | None, view: str) -> None:
    """All experts in a table that can be sorted; a chosen row is shown in the card."""
    layers, experts = (grid.ravel().tolist() for grid in np.indices(measures.norm.shape))
    columns: dict[str, list[str] | np.ndarray] = {
        "expert": [routers.label(a, e) for a, e in zip(layers, experts, strict=True)]
    }
    for measure, name in MEASURES.items():
        if measure != "takes" and (measure != "load" or load is not None):
            columns[name] = measured(measures, load, measure).ravel()

    def picked() -> None:
        rows = selected_rows("expert_table")
        if rows:
            links.choose(layer=layers[rows[0]], expert=experts[rows[0]])

    tables.show(
        columns,
        height=420,
        key="expert_table",
        on_select=picked,
        selection_mode="single-row",
        column_config={
            name: st.column_config.NumberColumn(format="%.4g") for name in list(columns)[1:]
        },
    )
    labels = layout.layer_labels(routers)
    downloads.row(
        "expert_measures",
        downloads.file_stem("expert_measures", routers.sha256, view),
        table=lambda: router_tables.expert_measures_csv(
            measures, labels, lengths_of(routers, view)
        ),
    )


def lengths_of(routers: RouterSet, view: str) -> ExpertInequality | None:
    """Every expert's length beside equal experts; only canonical columns can be dealt."""
    if view != "canonical":
        return None
    return cached.expert_lengths(routers, null_settings.current().seed)


def across(routers: RouterSet, view: str) -> None:
    """The classic comparison by index, labelled as such."""
    st.caption(
        "Classic: compares experts that share a number. Numbers carry no meaning across layers; "
        "the chains follow experts by what they read."
    )
    similarity = cached.expert_similarity_across_layers(routers, view)
    labels = layout.layer_labels(routers)
    layout.figure(
        figures.expert_similarity_across_layers(similarity, labels, view=view),
        "expert_similarity_across_layers",
        routers,
        words=(view,),
        table=lambda: router_tables.across_layers_csv(similarity, labels),
    )


def classic(routers: RouterSet, measures: ExpertMeasures, view: str, expert: int) -> None:
    """Variance, norm and L1/L2 of all experts."""
    labels = layout.layer_labels(routers)
    layout.figure(
        figures.expert_variance_analysis(measures, labels, expert=expert),
        "expert_variance_analysis",
        routers,
        words=(view,),
        table=lambda: router_tables.expert_measures_csv(measures, labels),
    )
