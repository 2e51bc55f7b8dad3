"""Experts: differences between experts of a layer, and likeness across layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from lens import cached, figures
from lens.experts.measures import ExpertMeasures
from lens.many_prompts.expert_cards import ExpertCards
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.traces import routing
from pages.expert_views import card, chains, likes, same_layer, stored_cards
from pages.expert_views import measures as all_experts
from pages.live.one_trace import routing_shape
from pages.live.session import kept_traces
from pages.notes import card as note_card
from pages.notes import kept, listing
from pages.shell import data_source, layout, links, null_settings, parts
from pages.shell.link_names import PAGES, page_file
from pages.shell.picks import pick_expert
from pages.vocabulary import chips
from pages.vocabulary import readout as vocabulary_readout

CARD = "expert_card"  # key of the part with the map and the card
HOW_TO_READ = """
One cell is one expert of one layer, written L12·E3. **What it takes**: labelled texts that the
model was not trained on were run once and are stored with it. A kind of text is an expert's where
the expert takes more of its tokens than of all others (kinds permuted over whole texts, two-sided,
q ≤ 0.05 over all kinds and experts). Words are set beside words shuffled over all texts, and beside
words shuffled within stretches of about 16 tokens, so that kind of text, topic and place do not
count; both are exact (hypergeometric; q over all experts and words). Neighbouring occurrences are
taken as independent, which they are not. Contexts: the tokens with the highest gates.

**Numbers of experts carry no meaning across layers**: a column of the map is no entity, only cells
are.

- **Breadth**: the probability that a token is sent to the expert, `P(z_k among the top K)` with
  `z ~ N(0, W̃ᵀW̃)`, under an isotropic prior of the residual stream. It sums to K over a layer;
  chance is K / E. Unchanged by a scale per layer and by what all columns share. For top 1 or 2 of
  at most 16 experts by orthant probabilities, `P(k in the top 2) = Σ_{j≠k} P(z_k > z_m for all
  m ∉ {k, j}) − (E − 2)·P(k is first)`, else from a sample; the card says which. With a trace at
  hand the measured load stands beside it.
- **Norm**: `‖w̃_k‖₂`, in units of the weights. Logits grow with it.
- **Nearest elsewhere**: the largest cosine with an expert of another layer. The level shown is the
  median of the largest of as many cosines of unrelated directions.
- **Variance** and **L1 / L2** are the classic measures; Gaussian weights give L1 / L2 = √(2d/π).
- **Load**: share of the (token, slot) assignments in the last trace; the even share is 1 / E.

**Equal experts.** Whether an expert is longer or broader than its equals is asked of two nulls.
*Weights dealt to other experts*: in every coordinate of a layer the E weights go to the experts in
random order, which keeps norm scales, outlier dimensions and heavy tails. *Experts mixed from all
layers*: random mixtures of all columns of all layers, which keep the covariance that all layers
share. The larger p counts.

The card lists the nearest experts of other layers, each with its place among what the same two
layers give when their experts are mixed. Matches are the partners in the best one-to-one matching
with the layer before and after.

**Chains.** Experts are followed from layer to layer by the matching that makes the sum of cosines
largest. The experts of each layer are then mixed by a random rotation among themselves and matched
again: the directions that the layers read stay, which expert reads which is lost. A match is a link
when mixed experts rarely give its cosine: q ≤ 0.05 over all links (Benjamini–Hochberg). A chain is
born where no link leads in and ends where none leads on. Single matches are many and each says
little; a step takes all its experts together, and the answer above takes all steps.

**Within a layer.** Unrelated columns less their mean have a cosine of −1 / (E − 1), give or take
1 / √d. Norm scales and outlier dimensions widen that: dots mark pairs that are other than those of
equal experts, which have the same (two-sided, q ≤ 0.05 within the layer).
"""


def measured_load(routers: RouterSet) -> np.ndarray | None:
    """Load of every expert in the trace shown last, if these routers made it."""
    trace = kept_traces.shown()
    if trace is None or trace.model_sha256 != routers.sha256:
        return None
    return routing.load(trace)


def show() -> None:
    """The page."""
    links.through_app()
    routers = data_source.current()
    view = data_source.current_view()
    layout.heading(
        "Experts",
        lambda: layout.findings(routers, "/experts"),
        HOW_TO_READ,
        routers,
        view=view,
        chance=True,
    )
    with st.spinner("Measuring the experts …"):
        measures = cached.measures_within(routers, view)
    shown = Shown(
        routers,
        view,
        measures,
        measured_load(routers),
        stored_cards.cards_of(routers),
        chips.at_hand(routers, view),
    )
    picked = map_and_card(shown)
    shown.statistics = statistics(shown, picked)
    listing.show(routers)
    layout.share(routers)


@dataclass
class Shown:
    """What the page shows, for its part that is drawn alone.

    Attributes:
        routers: the set.
        view: "canonical" or "raw".
        measures: of the weights.
        load: in the trace shown last.
        cards: what the experts take in a stored run.
        words: the read-out of the vocabulary.
        statistics: they are unfolded, and of the expert that was chosen.
    """

    routers: RouterSet
    view: str
    measures: ExpertMeasures
    load: np.ndarray | None
    cards: ExpertCards | None
    words: chips.Words | None
    statistics: bool = False


@parts.part(key=CARD)
def map_and_card(shown: Shown) -> tuple[int, int]:
    """All experts at the left, the chosen one at the right: drawn alone when another is chosen.

    Returns:
        Layer and expert that are chosen.
    """
    routers, cards, words = shown.routers, shown.cards, shown.words
    if parts.alone() and (shown.statistics or kept.CHANGED.take()):
        st.rerun()  # statistics are of the chosen expert, and pins stand beside the page
    kept.CHANGED.drop()
    first = (
        cards.most_telling
        if cards
        else words.readout.most_telling
        if words
        else broadest(shown.measures)
    )
    left, right = st.columns([3, 2], gap="medium")
    with right, st.container(border=True):
        one, two = st.columns(2)
        with one:
            layer = layout.layer_choice(layout.layer_labels(routers), default=first[0])
        with two:
            names = kept.titles(routers.sha256, layer)
            expert = layout.expert_choice(routers.n_experts, default=first[1], names=names)
        note_card.show(routers, layer, expert)
        known = card.Known(shown.measures, shown.load, cards, words)
        card.show(routers, known, shown.view, layer, expert)
    with left:
        map_of_all(shown, (layer, expert))
        if words is not None:
            likes.show(routers, cards, words.source, shown.view, "the")
    parts.drawn()
    return layer, expert


def map_of_all(shown: Shown, picked: tuple[int, int]) -> None:
    """All experts, coloured by what is chosen."""
    usable = [
        name
        for name in all_experts.MEASURES
        if (name != "takes" or shown.cards is not None)
        and (name != "load" or shown.load is not None)
        and (name != "max_similarity" or shown.routers.n_layers > 1)
    ]
    measure = links.choice(
        "measure",
        "Colour by",
        usable,
        usable[0],
        shown=all_experts.MEASURES.__getitem__,
        width=240,
    )
    if measure == "takes" and shown.cards is not None:
        all_experts.takes_map(shown.routers, shown.cards, picked)
    else:
        all_experts.coloured(shown.routers, shown.measures, shown.load, measure, shown.view, picked)


def statistics(shown: Shown, picked: tuple[int, int]) -> bool:
    """All that is counted of the experts, folded; returns whether it is open.

    It is open at first where a link leads to a part of it.
    """
    fold = parts.statistics_fold(
        "Statistics: the vocabulary, chains, pairs within a layer, tables, load",
        "expert_statistics",
        "tab",
    )
    if not fold.open:
        return False
    with fold:
        measures = cached.expert_measures(shown.routers, shown.view)
        for tab, container in links.tabs("tab", tab_names(shown.routers, shown.words is not None)):
            with container:
                draw_tab(tab, shown.routers, measures, shown.load, shown.view, picked)
    return True


def broadest(measures: ExpertMeasures) -> tuple[int, int]:
    """Layer and expert with the largest breadth."""
    layer, expert = np.unravel_index(np.nanargmax(measures.breadth), measures.breadth.shape)
    return int(layer), int(expert)


def tab_names(routers: RouterSet, with_words: bool) -> dict[str, str]:
    """The tabs that these routers have something for, what says most of them first."""
    listens = {"listens": "Listens to"}
    names = listens if with_words else {}
    if routers.n_layers > 1:
        names = names | {"chains": "Chains of matches"}
    names = names | {"within": "Within a layer", "table": "Table"} | listens
    if routers.n_layers > 1:
        names |= {"by_index": "By index (classic)"}
    return names | {"classic": "Variance and norms", "load": "Load"}


def draw_tab(
    tab: str,
    routers: RouterSet,
    measures: ExpertMeasures,
    load: np.ndarray | None,
    view: str,
    picked: tuple[int, int],
) -> None:
    """The figures and the table of the open tab."""
    layer, expert = picked
    settings = null_settings.current()
    if tab == "table":
        all_experts.table(routers, measures, load, view)
    elif tab == "listens":
        vocabulary_readout.show(routers, layer, expert, view)
    elif tab == "within":
        same_layer.show(routers, view, layer, settings)
    elif tab == "chains":
        chains.show(routers, view, layer, expert, settings)
    elif tab == "by_index":
        all_experts.across(routers, view)
    elif tab == "classic":
        all_experts.classic(routers, measures, view, expert)
    else:
        breadth_and_load(routers, measures, load, view, picked)


def breadth_and_load(
    routers: RouterSet,
    measures: ExpertMeasures,
    load: np.ndarray | None,
    view: str,
    picked: tuple[int, int],
) -> None:
    """Breadth, from the weights, against the load in a text."""
    trace = kept_traces.shown()
    if load is None or trace is None:
        st.info("Run a prompt on the Live routing page with these routers' model to see it.")
        title, icon = PAGES["live_routing"]
        st.page_link(page_file("live_routing"), label=title, icon=icon)
        return
    measured, labels = load, layout.layer_labels(routers)
    names = [f"E{expert}" for expert in range(routers.n_experts)]
    layout.figure(
        figures.breadth_against_load(measures.breadth, measured, labels, picked=picked),
        "breadth_against_load",
        routers,
        stretch=True,
        words=(view,),
        table=lambda: csv_text.matrix_csv(measured, labels, names, "layer"),
        on_pick=pick_expert,
    )
    routing_shape.predicted_load(routers, trace, labels)


show()
