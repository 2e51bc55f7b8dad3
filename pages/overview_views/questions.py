"""The four questions as cards: a plain answer, and the effect as a dot on its chance band."""

from __future__ import annotations

import streamlit as st

from lens import figures
from lens.glossary import marked
from lens.questions import Answer
from pages.shell import finding_block, layout
from pages.shell.link_names import PAGES, page_file


def cards(answers: list[Answer]) -> None:
    """The questions in two rows, each with its answer."""
    for row in (answers[:2], answers[2:]):
        for column, answer in zip(st.columns(2), row, strict=False):
            with column:
                _card(answer)


def _card(answer: Answer) -> None:
    """One question with its answer, its place among chance and the way to the view."""
    finding = answer.finding
    with st.container(border=True, height="stretch", gap="small"):
        st.markdown(f"**{answer.question}**")
        st.markdown(marked(answer.plain))
        if finding.verdict != "not asked":
            layout.chart(figures.effect_on_chance(finding), f"effect_{answer.id}")
        page, params = layout.QUESTION_VIEWS[answer.id]
        name, icon = PAGES[page.strip("/")]
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            finding_block.chip(finding)
            st.page_link(page_file(page), label=f"See it in {name}", icon=icon, query_params=params)
            finding_block.numbers([finding])
