"""What an expert takes in a stored run: a sentence, kinds of text, words, contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import streamlit as st

from lens.escaping import as_html
from lens.figures.token_grid import bare
from lens.figures.traces import label_map
from lens.findings.of_experts import expert_takes
from lens.many_prompts.expert_cards import ExpertCards, main_kinds
from lens.many_prompts.run_words import Occurrence
from lens.words import whole_percent
from pages.expert_views import contexts
from pages.guide import tables
from pages.shell import finding_block
from pages.vocabulary.chips import chips_html

WORDS = 12
SHOWN_CONTEXTS = 4
MOST_KINDS = 8
STYLE = """<style>
.takes { font-size: 1.12rem; font-weight: 600; line-height: 1.35; margin: 0; }
.kinds { width: 100%; border-collapse: collapse; font-size: 0.9rem; }
.kinds td, .kinds th { padding: 0.06rem 0.3rem; border: 0; font-weight: 400; text-align: left; }
.kinds td:first-of-type { width: 62%; } .kinds td:last-child { text-align: right; }
.kinds i { display: block; height: 0.7rem; border-radius: 2px; background: #8C8C8C; }
.kinds .own i { background: #1769AA; } .kinds .own th { font-weight: 600; }
</style>"""


def show(
    cards: ExpertCards,
    layer: int,
    expert: int,
    name: str,
    found: Sequence[Occurrence] | None = None,
) -> None:
    """The top of an expert's card.

    Args:
        cards: of all experts.
        layer, expert: by their places.
        name: of the expert.
        found: its contexts, where the cards have none.
    """
    finding = expert_takes(cards, layer, expert, name)
    st.html(f'{STYLE}<p class="takes">{as_html(finding.sentence)}</p>')
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        finding_block.chip(finding)
        finding_block.numbers([finding])
    st.html(kinds_html(cards, layer, expert))
    words = cards.said(layer, expert)
    if words:
        st.caption("Words that it takes more often than chance gives:")
        st.html(chips_html(words[:WORDS]))
    found = cards.contexts(layer, expert) if found is None else found
    if found:
        st.caption("Where it is surest:")
        st.html(contexts.contexts_html(found[:SHOWN_CONTEXTS], many_labels=True))
    with st.expander("More words and contexts"):
        more(cards, layer, expert, len(words))
        if len(found) > SHOWN_CONTEXTS:
            st.html(contexts.contexts_html(found[SHOWN_CONTEXTS:], many_labels=True))


def more(cards: ExpertCards, layer: int, expert: int, n_words: int) -> None:
    """All words with their counts, and those that its kind of text does not explain."""
    inside = cards.said(layer, expert, inside=True)
    if inside:
        st.caption("Beyond its kinds of text, topics and places, these:")
        st.html(chips_html(inside[:WORDS]))
    elif n_words:
        st.caption("Its kinds of text explain all of its words.")
    own = cards.words(layer, expert)
    at = layer, expert, own
    tables.show(
        {
            "word": [bare(cards.pieces[i]) for i in own],
            "taken": cards.taken[at],
            "of": cards.occurrences[own],
            "by chance": cards.expected[at],
            "q": cards.word_q[at],
            "q within a text": cards.inside_q[at],
        },
        height=min(len(own), 6) * 35 + 38,
        key="card_words",
        column_config={
            "by chance": st.column_config.NumberColumn(
                format="%.1f", help="Words shuffled over all texts"
            ),
            "q within a text": st.column_config.NumberColumn(
                format="%.2g", help="Words shuffled within stretches of about 16 tokens of a text"
            ),
        },
    )


def kinds_map(
    cards: ExpertCards,
    labels: Sequence[str],
    *,
    chance: str,
    picked: tuple[int, int] | None = None,
    given: Mapping[tuple[int, int], str] | None = None,
) -> alt.LayerChart:
    """The kind of text that every expert takes most; see `lens.figures.traces.label_map`."""
    main, share = main_kinds(cards)
    return label_map.label_map(
        main, share, cards.labels, labels, chance=chance, picked=picked, given=given
    )


def kinds_html(cards: ExpertCards, layer: int, expert: int) -> str:
    """Share of each kind's tokens as bars, the kinds that it takes in blue."""
    share, own = cards.share[:, layer, expert], cards.takes[:, layer, expert]
    rows = []
    for i in np.argsort(-share, kind="stable")[:MOST_KINDS]:
        width = f'<i style="width:{100 * float(share[i]):.1f}%"></i>'
        kind = ' class="own"' if own[i] else ""
        rows.append(
            f'<tr{kind}><th scope="row">{as_html(cards.labels[i])}</th><td>{width}</td>'
            f"<td>{whole_percent(float(share[i]))}</td></tr>"
        )
    return (
        '<table class="kinds" aria-label="Share of the tokens of each kind of text that it takes">'
        f"{''.join(rows)}</table>"
    )
