"""Overview: the routers that are loaded, and their answers to the four questions."""

from __future__ import annotations

from functools import partial

import numpy as np
import streamlit as st

from lens import cached, figures
from lens.escaping import as_markdown
from lens.finding import Finding
from lens.glossary import BASIC, marked
from lens.questions import Answer
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables import routers as router_tables
from lens.words import fixed
from pages.expert_views import stored_cards
from pages.expert_views.measures import takes_map
from pages.exports import report
from pages.guide import tour
from pages.overview_views import hero, questions, two_sets
from pages.shell import data_source, layout, links
from pages.shell.link_names import page_file
from pages.shell.picks import Mark, OnPick, pick_expert, pick_layers
from pages.shell.session_keys import SessionKey, SessionValue

LAYERS, EXPERTS = page_file("layers"), page_file("experts")
OPENED = SessionValue[str](SessionKey.OVERVIEW_OPENED)

HOW_TO_READ = """
A Mixture-of-Experts layer sends each token to a few of its experts. The **router** decides
which: one column of weights for each expert, read against the token's normalised residual.

- **Canonical router** `diag(γ)·W·(I − 11ᵀ/E)`: the scale of the norm before it folded in, and
  what all columns of a layer share removed, since softmax cannot see it.
- **Effect**: the number that the sentence rests on. Beside it, what the same number is when there
  is nothing to find, with the range that holds 95 % of such draws.
- **p**: how often chance alone reaches the effect. Four questions are asked at once: an answer
  counts when its p, adjusted for that by Holm's method, is below 1 %, so that routers without
  structure give no finding in 99 of 100 cases.
- **Effective dimension** `(tr S)² / tr S²`, S the second moment of all router columns: in how many
  directions the columns point, out of the model's width. It is read off pairs of columns of
  different layers, so that few columns don't make it small. A small one says that a few directions,
  which all layers share, carry most of the weight; that alone makes layers and experts look alike,
  so the nulls keep it.

What each answer has to beat. Questions 1 and 2: shuffled orders of the model's own layers. Question
3: experts mixed within their layers and matched again, which keeps every direction that the layers
read; unrelated directions stand beside it as the absolute zero. Question 4: equal experts, drawn in
two ways (weights dealt to other experts; experts mixed from all layers), the larger p counts.

Numbers of experts carry no meaning across layers: they can be permuted within a layer without
changing the model. The four answers do not depend on them.
"""


def described(routers: RouterSet) -> str:
    """Shape and origin of what is loaded, in a line."""
    layers = "1 layer" if routers.n_layers == 1 else f"{routers.n_layers} layers"
    parts = [
        f"{layers} of {routers.n_experts} experts, {routers.top_k} for each token",
        f"{routers.d_model:,} wide",
    ]
    if routers.n_layers > 1:
        dimension = f"{fixed(cached.unbiased_dimension(routers), 0)} of {routers.d_model:,}"
        parts.append(f"routers point in about {dimension} directions")
    if routers.norm_scales is None:
        parts.append("norm scales unknown")
    return " · ".join([*parts, f"{routers.score} gates", routers.source])


def headline(answers: list[Answer]) -> list[Finding]:
    """The first of the answers that is a finding, or that there is none."""
    findings = [answer.finding for answer in answers]
    found = [one for one in findings if one.found]
    if found:
        return found[:1]
    asked = [one.sentence for one in findings if one.verdict != "not asked"]
    if not asked:
        return [Finding("These routers are too few for any of the four questions.", "not asked")]
    nothing = "Nothing in these routers stands out from chance."
    return [Finding(nothing, "not told from chance", " ".join(asked))]


def glance(routers: RouterSet) -> None:
    """Likeness of layers, and what experts take or how broad they are; a cell opens its page."""
    labels = layout.layer_labels(routers)
    names = [f"E{expert}" for expert in range(routers.n_experts)]
    left, right = st.columns(2, gap="medium")
    if routers.n_layers > 1:
        similarity = cached.layer_similarity(routers, "cka", "canonical")
        chance = cached.chance_level("cka", routers, "canonical")
        others = ~np.eye(len(similarity), dtype=bool)
        domain = figures.fitted_domain(similarity[others])
        with left:
            layout.figure(
                figures.layer_similarity_heatmap(
                    similarity, None, labels, "cka", chance, domain=domain
                ),
                "layer_similarity_heatmap",
                routers,
                scale=0.66,
                stretch=True,
                words=("cka",),
                table=lambda: router_tables.layer_similarity_csv(similarity, labels, "cka"),
                on_pick=partial(opened, LAYERS, pick_layers),
            )
    cards = stored_cards.cards_of(routers)
    if cards is not None:
        with right:
            takes_map(routers, cards, on_pick=partial(opened, EXPERTS, pick_expert))
        return
    with st.spinner("Measuring the experts …"):
        measures = cached.measures_within(routers)
    with right:
        layout.figure(
            figures.expert_map(
                measures.breadth, labels, "breadth", measures.baselines.get("breadth")
            ),
            "expert_map",
            routers,
            stretch=True,
            words=("breadth",),
            table=lambda: csv_text.matrix_csv(measures.breadth, labels, names, "layer"),
            on_pick=partial(opened, EXPERTS, pick_expert),
        )


def opened(page: str, pick: OnPick, mark: Mark) -> None:
    """A click on a cell chooses it, and leads to the page that says more of it."""
    pick(mark)
    OPENED.set(page)


links.through_app()
asked = OPENED.take()
if asked is not None:
    st.switch_page(asked)
routers = data_source.current()
layout.heading(
    "Overview", lambda: headline(layout.answers(routers)), HOW_TO_READ, routers, chance=True
)
tour.offer()
hero.show()
st.subheader("Four questions", anchor=False)
read = "Dot: this model. Grey: where 95 of 100 draws of chance lie."
st.caption(marked(f"{as_markdown(described(routers))}  \n{read}", skip=BASIC))
cards = st.empty()
if layout.is_large(routers):
    cards.caption(layout.ANSWERING)
else:
    with cards.container():
        questions.cards(layout.answers(routers))
st.subheader("At a glance", anchor=False)
st.caption("Click a cell to open it.")
glance(routers)
two_sets.show(routers)
report.show(routers)
layout.share(routers)
if layout.is_large(routers):
    with cards.container():
        questions.cards(layout.answers(routers))
