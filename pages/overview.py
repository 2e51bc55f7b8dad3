"""Overview: the routers that are loaded, and their answers to the four questions."""

from __future__ import annotations

import streamlit as st

from lens import cached, figures
from lens.finding import Finding, strongest
from lens.questions import Answer
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables import routers as router_tables
from pages.shell import data_source, finding_block, layout, links

PAGES = {
    "/layers": ("pages/layers.py", "Layers", ":material/grid_on:"),
    "/experts": ("pages/experts.py", "Experts", ":material/hub:"),
    "/clustering": ("pages/clustering.py", "Clustering", ":material/account_tree:"),
    "/live_routing": ("pages/live_routing.py", "Live routing", ":material/alt_route:"),
}

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


def describe(routers: RouterSet) -> None:
    """The shape and origin of what is loaded, as a row of figures."""
    dimension = "–"
    if routers.n_layers > 1:
        dimension = f"{cached.unbiased_dimension(routers):,.0f} of {routers.d_model:,}"
    facts = [
        ("Layers", f"{routers.n_layers}"),
        ("Experts a layer", f"{routers.n_experts}"),
        ("Experts a token", f"{routers.top_k}"),
        ("Width", f"{routers.d_model:,}"),
        ("Norm scales", "known" if routers.norm_scales is not None else "unknown"),
        ("Effective dim.", dimension),
    ]
    with st.container(horizontal=True, gap="small"):
        for name, value in facts:
            st.metric(name, value, border=True, width=150)
    st.caption(
        f"Source: {routers.source} · {routers.score} gates · SHA-256 `{routers.sha256[:16]}`"
    )


def headline(answers: list[Answer]) -> list[Finding]:
    """The clearest of the answers, or that there is none."""
    findings = [answer.finding for answer in answers]
    if any(one.found for one in findings):
        return [strongest(findings)]
    asked = [one.sentence for one in findings if one.verdict != "not asked"]
    if not asked:
        return [Finding("These routers are too few for any of the four questions.", "not asked")]
    nothing = "Nothing in these routers stands out from chance."
    return [Finding(nothing, "not told from chance", " ".join(asked))]


def card(answer: Answer, number: int) -> None:
    """One question with its answer, its place among chance and the way to the view."""
    with st.container(border=True, height="stretch", gap="small"):
        with st.container(
            horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
        ):
            st.markdown(f"**{number}. {answer.question}**", width="content")
            finding_block.chip(answer.finding)
        st.markdown(answer.plain)
        page, params = layout.QUESTION_VIEWS[answer.id]
        path, name, icon = PAGES[page]
        with st.container(horizontal=True, horizontal_alignment="distribute"):
            st.page_link(path, label=f"See it in {name}", icon=icon, query_params=params)
            finding_block.numbers([answer.finding])


def glance(routers: RouterSet) -> None:
    """Likeness of layers and breadth of their experts, as two small figures."""
    labels = layout.layer_labels(routers)
    names = [f"E{expert}" for expert in range(routers.n_experts)]
    left, right = st.columns(2, gap="medium")
    if routers.n_layers > 1:
        similarity = cached.layer_similarity(routers, "cka", "canonical")
        chance = cached.chance_level("cka", routers, "canonical")
        with left:
            layout.figure(
                figures.layer_similarity_heatmap(similarity, None, labels, "cka", chance),
                "layer_similarity_heatmap",
                routers,
                scale=0.66,
                words=("cka",),
                table=lambda: router_tables.layer_similarity_csv(similarity, labels, "cka"),
            )
    with st.spinner("Measuring the experts …"):
        measures = cached.measures_within(routers)
    with right:
        layout.figure(
            figures.expert_map(
                measures.breadth, labels, "breadth", measures.baselines.get("breadth")
            ),
            "expert_map",
            routers,
            scale=0.66 if routers.n_layers <= 32 else 0.5,
            words=("breadth",),
            table=lambda: csv_text.matrix_csv(measures.breadth, labels, names, "layer"),
        )


def four_cards(answers: list[Answer]) -> None:
    """The questions in two rows, each with its answer."""
    for row in (answers[:2], answers[2:]):
        for column, answer in zip(st.columns(2), row, strict=False):
            with column:
                card(answer, answers.index(answer) + 1)


links.through_app()
routers = data_source.current()
layout.heading(
    "Overview", lambda: headline(layout.answers(routers)), HOW_TO_READ, routers, chance=True
)
describe(routers)
st.subheader("Four questions", anchor=False)
cards = st.empty()
if layout.is_large(routers):
    cards.caption(layout.ANSWERING)
else:
    with cards.container():
        four_cards(layout.answers(routers))
st.subheader("At a glance", anchor=False)
glance(routers)
st.subheader("Watch it route", anchor=False)
with st.container(border=True):
    st.markdown(
        "Type a text and see, token by token and layer by layer, which experts the model chose "
        "and how close each choice was."
    )
    st.page_link("pages/live_routing.py", label="Live routing", icon=":material/alt_route:")
layout.share(routers)
if layout.is_large(routers):
    with cards.container():
        four_cards(layout.answers(routers))
