"""What an expert takes, in words: the tokens that speak most for it."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from grok.errors import GrokError
from lens.errors import LensError
from lens.escaping import as_html
from lens.figures.token_grid import bare
from lens.routers.router_set import RouterSet
from lens.vocabulary.readout import Readout, ReadoutSettings
from lens.words import fixed, p_value_text
from pages.shell import finding_block
from pages.vocabulary import source as vocabulary_source
from pages.vocabulary.source import Source

SHOWN = 12
LEVEL = 0.05  # false discovery rate
STYLE = """<style>
.chips { display: flex; flex-wrap: wrap; gap: 0.3rem; }
.chips span { border: 1px solid rgba(128, 140, 155, 0.55); border-radius: 0.35rem;
  padding: 0.05rem 0.45rem; font-size: 0.95rem; white-space: pre; }
</style>"""


@dataclass(frozen=True)
class Words:
    """The read-out of the vocabulary, and where its tokens' texts come from."""

    readout: Readout
    source: Source


def at_hand(routers: RouterSet, view: str) -> Words | None:
    """The read-out, where it takes no wait; None without an embedding of these routers' model."""
    source = vocabulary_source.find(routers)
    if isinstance(source, str) or source.tokenizer is None:
        return None
    try:
        readout = vocabulary_source.known(routers, source, ReadoutSettings(view=view))
    except (LensError, GrokError):
        return None
    return None if readout is None else Words(readout, source)


def show(routers: RouterSet, words: Words, layer: int, expert: int) -> None:
    """The tokens that push an expert most, and whether that is more than chance."""
    readout, label = words.readout, routers.label(layer, expert)
    tokens = readout.top[layer, expert, :SHOWN]
    pieces = [words.source.piece(int(token)) for token in tokens]
    st.markdown(f"**{label} is called most by these words**")
    st.html(chips_html(pieces))
    q = float(readout.q[0, layer, expert])
    low, high = (float(side[0]) for side in readout.mixed_band(layer, expert))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        finding_block.verdict_chip("found" if q <= LEVEL else "not told from chance")
        with finding_block.behind():
            st.markdown(
                f"The first of them pushes {label} by "
                f"{fixed(readout.top_push[layer, expert, 0], 2)} "
                f"logits; for mixed experts of its layer the strongest token gives {fixed(low, 2)} "
                f"to {fixed(high, 2)} ({readout.mixtures:,} mixtures; q {p_value_text(q)} over all "
                "experts). Each word by itself, from the embedding alone: later layers see more."
            )


def chips_html(pieces: list[str]) -> str:
    """Pieces of text as small boxes, each once; a word is shown without the blank before it."""
    shown = dict.fromkeys(as_html(bare(piece)) for piece in pieces)
    boxes = "".join(f"<span>{text}</span>" for text in shown)
    return f'{STYLE}<div class="chips">{boxes}</div>'
