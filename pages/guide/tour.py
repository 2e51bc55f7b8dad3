"""A tour of a minute through the pages: one sentence a step, skipped at any time.

The first visit offers it in a line on the first page. A step outlines what it speaks of, and lies
above nothing. That it was seen is kept by a cookie of the browser; the sidebar starts it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import streamlit as st

from lens.glossary import marked
from pages.shell import links
from pages.shell.link_names import page_file
from pages.shell.session_keys import SessionKey, SessionValue

COOKIE = "grok_lens_tour"
AT = SessionValue[int](SessionKey.TOUR_STEP)
GOING = SessionValue[bool](SessionKey.TOUR_GOING)
SEEN = SessionValue[bool](SessionKey.TOUR_SEEN)
_SCRIPT = f"""<script>
document.cookie = "{COOKIE}=seen; Path=/; Max-Age=31536000; SameSite=Strict";
</script>"""


@dataclass(frozen=True)
class Step:
    """One stop.

    Attributes:
        page: where it is, as in the address.
        says: the sentence.
        shows: CSS selector of what it speaks of.
        choices: made when it is reached.
    """

    page: str
    says: str
    shows: str
    choices: Mapping[str, object] = field(default_factory=dict)


STEPS = (
    Step(
        "",
        "Each box is a token, a piece of a word; its colour is the expert that the chosen layer "
        "sends it to first. Move the slider.",
        ".st-key-hero",
    ),
    Step(
        "",
        "Every page opens with what it found. The chip says whether chance could do the same, "
        "“Numbers” holds the statistics, and dotted words explain themselves.",
        ".st-key-first_lines",
    ),
    Step(
        "live_routing",
        "Type a text of your own or click an example: the map shows which expert each layer chose "
        "for each token. Click a cell to see how close the choice was.",
        ".st-key-inspect_examples, .st-key-token_layer_map",
        {"mode": "inspect"},
    ),
    Step(
        "live_routing",
        "What if an expert were gone? Here you take one away and see which words the model would "
        "have said.",
        ".st-key-mode",
        {"mode": "what_if"},
    ),
    Step(
        "experts",
        "Each cell is one expert, and the card says what it takes. Pin the ones you want to find "
        "again.",
        ".st-key-expert_map",
    ),
    Step(
        "layers",
        "Bright cells are layers that route alike. Click one to compare its two layers, expert by "
        "expert.",
        ".st-key-layer_similarity_heatmap",
    ),
    Step(
        "clustering",
        "Here layers that route alike lie close together; “How sure?” says whether there are "
        "groups at all. That was the tour.",
        ".st-key-layer_mds, .st-key-layer_dendrogram",
    ),
)
STYLE = """<style>
[data-testid="stLayoutWrapper"]:has(> .st-key-tour) { position: sticky; top: 3.2rem; z-index: 90; }
.st-key-tour { padding: 0.6rem 1rem; background: GROUND; border: 1px solid #1769AA;
  border-radius: 0.5rem; }
SHOWN { outline: 3px solid #E07B00; outline-offset: 6px; border-radius: 0.3rem; }
</style>"""


def offer() -> None:
    """A line that offers the tour on the first visit; for the top of the first page."""
    if AT.get() is not None or SEEN.get() or st.context.cookies.get(COOKIE) == "seen":
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="tour_offer"):
        st.markdown("New here? A tour of a minute shows you round.", width="content")
        st.button("Take the tour", key="tour_start", icon=":material/explore:", on_click=begin)
        st.button("No, thanks", key="tour_decline", type="tertiary", on_click=end)


def again() -> None:
    """The button that starts the tour at any time; for the sidebar."""
    st.button(
        "Tour of a minute",
        key="tour_again",
        icon=":material/explore:",
        type="tertiary",
        on_click=begin,
    )


def bar(page: str) -> None:
    """The step of the tour, above the page that it speaks of; nothing where none is under way.

    Args:
        page: that is open, as in the address.
    """
    if SEEN.get():
        st.html(_SCRIPT, unsafe_allow_javascript=True)
    at = AT.get()
    if at is None:
        return
    if GOING.take() and STEPS[at].page != page:
        st.switch_page(page_file(STEPS[at].page))
    if STEPS[at].page != page:  # somebody goes their own way: the tour comes along
        at = next(i for i, step in enumerate(STEPS) if step.page == page)
        AT.set(at)
    step = STEPS[at]
    ground = "#16283A" if st.context.theme.type == "dark" else "#EAF3FB"
    st.html(STYLE.replace("SHOWN", step.shows).replace("GROUND", ground))
    with st.container(key="tour", gap="xsmall"):
        st.markdown(f"**{at + 1} of {len(STEPS)}** · {marked(step.says)}")
        with st.container(horizontal=True, gap="small"):
            last = at == len(STEPS) - 1
            if not last:
                st.button("Next", key="tour_next", type="primary", on_click=_move, args=(at + 1,))
            if at:
                st.button("Back", key="tour_back", on_click=_move, args=(at - 1,))
            st.button("Done" if last else "Skip", key="tour_end", on_click=end)


def begin() -> None:
    """Go to the first step; for a callback."""
    SEEN.set(True)
    _move(0)


def end() -> None:
    """Leave the tour, which is not offered again; for a callback."""
    SEEN.set(True)
    AT.drop()


def _move(step: int) -> None:
    AT.set(step)
    GOING.set(True)
    links.choose(**STEPS[step].choices)
