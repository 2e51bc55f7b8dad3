"""One sentence that is routed already, token by token in the colour of its expert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import streamlit as st

from lens import figures
from lens.escaping import as_html
from lens.glossary import hover, marked
from lens.traces.contrast import first_choice_contrast
from lens.traces.trace import Trace, load_trace
from pages.shell import data_source, parts
from pages.shell.link_names import page_file

SECOND_LANGUAGE = "▁Sie"  # the token that the German half begins with
BEST_LAYER = 8
STYLE = """<style>
.routed { display: flex; flex-wrap: wrap; row-gap: 0.5rem; margin: 0.2rem 0 0.1rem; }
.routed span { display: inline-flex; flex-direction: column; align-items: center;
  border-radius: 0.3rem; padding: 0.05rem 0.28rem 0.12rem; margin-right: 2px; line-height: 1.25; }
.routed span.word { margin-left: 0.3rem; }
.routed b { font-size: 1.2rem; font-weight: 500; white-space: pre; }
.routed i { font-size: 0.74rem; font-style: normal; }
</style>"""
WHAT_A_ROUTER_IS = (
    "A Mixture-of-Experts model has several small networks, the **experts**, in every layer.",
    "For each token, a piece of a word, a **router** picks the few experts that work on it.",
    "What it picks is learnt, and no one tells it why. Here you see what was learnt.",
)


def example_file() -> Path:
    """The stored routing of one sentence by the bundled model; made again with a new model.

    python -m grok.run --checkpoint grok/demo --trace grok/demo/example_trace.npz --prompt "She
    opened the window and said good morning. Sie öffnete das Fenster und sagte guten Morgen."
    """
    return data_source.bundled_checkpoint() / "example_trace.npz"


@st.cache_resource(max_entries=1, show_spinner=False)
def _example(file: str, modified: float) -> Trace:
    return load_trace(file)


def example() -> Trace:
    """The routing of the sentence."""
    file = example_file()
    return _example(str(file), file.stat().st_mtime)


def show() -> None:
    """The sentence beside three lines on what a router is."""
    with st.container(border=True, key="hero"):
        left, right = st.columns([5, 3], gap="large")
        with left:
            _sentence()
        with right:
            st.markdown(marked("\n".join(f"- {line}" for line in WHAT_A_ROUTER_IS)))
            with st.container(key="try_own"):
                st.page_link(
                    page_file("live_routing"), label="Try your own text", icon=":material/edit:"
                )


@parts.part()
def _sentence() -> None:
    trace = example()
    layer = st.select_slider(
        "Where each token goes first, in layer",
        range(trace.n_layers),
        BEST_LAYER,
        format_func=lambda row: f"L{row}",
        key="hero_layer",
        help=hover("token", "layer", "first choice"),
    )
    st.html(STYLE + routed_html(trace, layer))
    st.caption(marked(in_words(trace, layer)))


def routed_html(trace: Trace, layer: int) -> str:
    """The tokens as boxes with the colour and the name of the expert that each goes to first."""
    boxes = []
    for piece, expert in zip(trace.pieces, trace.experts[layer, :, 0], strict=True):
        ground, ink = figures.expert_colour(int(expert))
        begins = " class=word" if piece.startswith("▁") else ""
        text = as_html(figures.visible(piece.removeprefix("▁")) or "·")
        style = f"background:{ground};color:{ink}"
        boxes.append(f'<span{begins} style="{style}"><b>{text}</b><i>E{expert}</i></span>')
    return f'<div class="routed">{"".join(boxes)}</div>'


def in_words(trace: Trace, layer: int) -> str:
    """What the colours of this layer show."""
    german = np.arange(trace.n_tokens) >= trace.pieces.tolist().index(SECOND_LANGUAGE)
    found = first_choice_contrast(trace, ~german, layer)
    return (
        f"One colour, one expert of L{layer}. **E{found.expert}** takes {found.inside} of "
        f"{found.n_inside} English tokens first, and {found.outside} of {found.n_outside} German "
        "ones. This is the bundled model; move the slider to another layer."
    )
