"""One token and the experts that it pushes: the search, the map, the selections.

See `pages.vocabulary.readout`: texts of tokens never go where markup is read.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import streamlit as st

from grok.errors import GrokError
from lens.figures.routers import vocabulary as vocabulary_figures
from lens.figures.token_grid import visible
from lens.glossary import help_of
from lens.routers.router_set import RouterSet
from lens.tables import vocabulary as vocabulary_tables
from lens.vocabulary.one_token import TokenReading, standing
from lens.vocabulary.readout import Readout
from pages.access.messages import told
from pages.guide import tables
from pages.shell import downloads, layout, links
from pages.shell.picks import pick_expert
from pages.shell.session_keys import SessionKey, SessionValue, widget
from pages.vocabulary import source as vocabulary_source
from pages.vocabulary.source import Source

READINGS = {"push": "Push", "margin": "Margin", "standing": "Against the vocabulary"}
FIRST_WORD = "the"
MATCHES = SessionValue[list[int]](SessionKey.TOKEN_MATCHES)
NOTICE = SessionValue[str](SessionKey.TOKEN_NOTICE)


def show(
    routers: RouterSet,
    readout: Readout | None,
    source: Source,
    layer: int,
    expert: int,
    view: str,
) -> None:
    """From a token to the experts that it pushes."""
    st.divider()
    st.markdown("#### Which experts hear a token?")
    token, what = controls(source, with_standing=readout is not None)
    search_results(source, token)
    reading = vocabulary_source.reading(routers, source, token, view)
    piece = source.piece(token)
    labels = layout.layer_labels(routers)
    beyond, apart = (int(np.count_nonzero(q <= 0.05)) for q in (reading.q, reading.unrelated_q))
    null = (
        "mixed experts of their layers" if view == "canonical" else "random directions (raw view)"
    )
    st.text(f"Token {token}: {visible(piece)}")
    st.markdown(
        f"{beyond} of {reading.q.size} experts are pushed up or down by it beyond {null} "
        f"(q ≤ 0.05), {apart} beyond unrelated directions"
        + (": not distinguishable from chance." if beyond == 0 else ".")
        + " A click on a cell shows what else that expert listens to."
    )
    left, right = st.columns([2, 1], gap="medium")
    with left:
        layout.figure(
            vocabulary_figures.token_expert_map(
                reading,
                labels,
                piece,
                what,
                standing=None if readout is None else standing(readout, reading),
                picked=(layer, expert),
            ),
            "token_experts",
            routers,
            scale=1.0 if routers.n_layers <= 32 else 0.78,
            stretch=True,
            words=(what, str(token), view),
            table=lambda: vocabulary_tables.reading_csv(reading, labels),
            on_pick=pick_expert,
        )
    with right:
        selections(routers, reading)


def controls(source: Source, *, with_standing: bool) -> tuple[int, str]:
    """The token, by search or by its id, and the measure of the map."""
    text_column, id_column, measure_column = st.columns([2, 1, 2], vertical_alignment="bottom")
    with text_column:
        if source.tokenizer is None:
            st.text("Without a tokenizer, give the token's id.")
        else:
            st.text_input(
                "Find a token",
                key="vocabulary_text",
                max_chars=200,
                placeholder="text, or an id as #123",
                on_change=partial(search, source),
                help=help_of(None, "token"),
            )
    with id_column:
        token = links.number(
            "vocab", "Token id", 0, source.embedding.n_tokens - 1, default_token(source)
        )
    with measure_column:
        what = links.segments(
            "reading",
            "Show",
            [name for name in READINGS if name != "standing" or with_standing],
            "push",
            shown=READINGS.__getitem__,
        )
    return token, what


def default_token(source: Source) -> int:
    """The token shown at first: a common word, where there is a tokenizer."""
    if source.tokenizer is None:
        return 0
    return int(next(iter(source.tokenizer.encode(FIRST_WORD)), 0))


def search(source: Source) -> None:
    """Take in what was typed: the first match is shown, the others are offered."""
    NOTICE.drop()
    MATCHES.set([])
    text = str(widget("vocabulary_text").get() or "")
    try:
        found = vocabulary_source.matches(source, text)
    except GrokError as error:
        NOTICE.set(str(error))
        return
    if found:
        MATCHES.set(found)
        links.choose(vocab=found[0])
    elif text.strip():
        NOTICE.set("No token is written so, or holds this text.")


def search_results(source: Source, token: int) -> None:
    """The tokens that were found, to choose another."""
    notice = NOTICE.get()
    if notice is not None:
        st.warning(told(notice), icon=":material/search_off:")
    found = [t for t in MATCHES.get() or [] if t < source.embedding.n_tokens]
    if len(found) < 2 or token not in found:
        return
    match = widget("vocabulary_match")
    match.set(token)

    def chosen() -> None:
        links.choose(vocab=int(match.get()))

    st.selectbox(
        "Found (what the text is cut into first, then tokens that hold it)",
        found,
        key=match.key,
        format_func=lambda t: f"{visible(source.piece(t))}  #{t}",
        on_change=chosen,
        help=help_of(None, "token"),
    )


def selections(routers: RouterSet, reading: TokenReading) -> None:
    """The experts that the token would select, layer by layer."""
    order = np.arange(routers.n_layers)
    chosen = {
        f"choice {k + 1}": [f"E{e}" for e in reading.chosen[:, k]]
        for k in range(min(routers.top_k, 4))
    }
    last = reading.margin[order, reading.chosen[:, -1]]
    tables.show(
        {"layer": layout.layer_labels(routers), **chosen, "margin of the last": last},
        height=min(routers.n_layers, 11) * 35 + 38,
        key="token_selections",
        column_config={"margin of the last": st.column_config.NumberColumn(format="%.3f")},
    )
    downloads.row(
        "token_selections",
        downloads.file_stem("token_selections", routers.sha256, "csv"),
        table=lambda: vocabulary_tables.reading_csv(reading, layout.layer_labels(routers)),
    )
