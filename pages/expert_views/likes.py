"""Which expert likes this? From a word to the experts that take it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from grok.errors import GrokError
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.figures.token_grid import bare
from lens.glossary import help_of
from lens.many_prompts.expert_cards import LEVEL, ExpertCards
from lens.routers.router_set import RouterSet
from lens.words import fixed
from pages.access.messages import told
from pages.shell import links
from pages.shell.session_keys import widget
from pages.vocabulary import source as vocabulary_source
from pages.vocabulary.source import Source

NAMED = 5
BOX = "likes"


@dataclass(frozen=True)
class Liking:
    """An expert that a word goes to, and how much, in a few words."""

    layer: int
    expert: int
    words: str


def show(
    routers: RouterSet, cards: ExpertCards | None, source: Source, view: str, example: str
) -> None:
    """A box for a word, and the experts that it goes to as buttons that open their cards.

    Args:
        cards: what experts take in a stored run.
        source: of the tokens and their embedding.
        view: of the routers.
        example: the word that is shown before one is typed.
    """
    st.text_input(
        "Which expert likes this word?",
        key=BOX,
        max_chars=60,
        placeholder=example,
        on_change=_chosen,
        args=(source,),
        help=help_of(None, "expert"),
    )
    typed = str(widget(BOX).get() or "").strip() or example
    try:
        tokens = vocabulary_source.matches(source, typed)[:1]
        if not tokens:
            st.caption("No token is written so.")
            return
        piece = source.piece(tokens[0])
        how, found = in_texts(cards, piece) if cards is not None else ("", [])
        if not found:
            how, found = on_its_own(routers, source, tokens[0], view)
    except (LensError, GrokError) as error:
        st.warning(told(error), icon=":material/search_off:")
        return
    st.text(f"“{bare(piece)}”: {how}")
    with st.container(horizontal=True, gap="small"):
        for one in found:
            st.button(
                f"{routers.label(one.layer, one.expert)} · {as_markdown(one.words)}",
                key=f"likes_{one.layer}_{one.expert}",
                on_click=links.choose,
                kwargs={"layer": one.layer, "expert": one.expert},
            )


def _chosen(source: Source) -> None:
    """What was typed becomes the token of the read-out below too."""
    try:
        found = vocabulary_source.matches(source, str(widget(BOX).get() or ""))
    except GrokError:
        return
    if found:
        links.choose(vocab=found[0])


def in_texts(cards: ExpertCards, piece: str) -> tuple[str, list[Liking]]:
    """The experts that take a word most beyond chance in the stored run; none if it is rare."""
    if piece not in cards.pieces:
        return "", []
    word = cards.pieces.index(piece)
    taken, occurrences = cards.taken[..., word].astype(float), int(cards.occurrences[word])
    over = np.where(cards.word_q[..., word] <= LEVEL, taken - cards.expected[..., word], -1)
    order = [divmod(int(i), over.shape[1]) for i in np.argsort(-over, axis=None)[:NAMED]]
    found = [
        Liking(layer, expert, f"{int(taken[layer, expert])} of {occurrences}")
        for layer, expert in order
        if over[layer, expert] > 0
    ]
    how = f"{occurrences} times in the example texts. Experts that take it beyond chance:"
    return how, found


def on_its_own(
    routers: RouterSet, source: Source, token: int, view: str
) -> tuple[str, list[Liking]]:
    """The experts that a token's embedding pushes most, by itself."""
    reading = vocabulary_source.reading(routers, source, token, view)
    sure = (reading.q <= LEVEL) & (reading.push > 0)
    value = np.where(sure, reading.push, -np.inf) if sure.any() else reading.push
    order = [divmod(int(i), value.shape[1]) for i in np.argsort(-value, axis=None)[:NAMED]]
    found = [
        Liking(layer, expert, f"{fixed(float(reading.push[layer, expert]), 1, sign=True)} logits")
        for layer, expert in order
        if np.isfinite(value[layer, expert])
    ]
    if sure.any():
        return "by itself, without a text, it pushes these beyond chance:", found
    return "by itself it pushes none beyond chance; these most:", found
