"""Pieces that every page is made of: heading, explanation, figure with its downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import altair as alt
import numpy as np
import streamlit as st
from altair.utils import schemapi
from streamlit.delta_generator import DeltaGenerator
from streamlit.errors import StreamlitAPIException

from lens import cached, figures
from lens.escaping import as_markdown
from lens.figures import alt_text
from lens.finding import Finding
from lens.glossary import BASIC, marked
from lens.layers.ranking import ranking_change
from lens.layers.similarity import LAYER_METRICS
from lens.questions import Answer
from lens.routers import router_set
from lens.routers.caveats import caveats
from lens.routers.router_set import RouterSet
from lens.version import version
from pages.shell import downloads, finding_block, links, null_settings, parts
from pages.shell.finding_block import Headline
from pages.shell.picks import OnPick
from pages.shell.session_keys import SessionKey, SessionValue, picked_marks

# The figures' own tests check them against Vega-Lite's schema; for every visitor it would take
# half of the time that a figure does.
schemapi.disable_debug_mode()

# Weights of a set whose answers take no more than a second or two.
AT_ONCE = 4_000_000
FEW_EXPERTS = 2048  # of all layers: each is compared with each, however wide the model is
ANSWERING = "Answering, beside what chance gives …"
LATE = SessionValue[tuple[DeltaGenerator, Callable[[], Headline]]](SessionKey.LATE_FINDING)
SHARE = SessionValue[DeltaGenerator](SessionKey.SHARE_POPOVER)
LINK = "share_link"  # key of the fragment with the link of this view

QUESTION_VIEWS: dict[str, tuple[str, dict[str, str]]] = {
    "adjacent": ("/layers", {"metric": "cka"}),
    "depth": ("/clustering", {"metric": "cka"}),
    "same_expert": ("/experts", {"metric": "matched_cosine", "tab": "chains"}),
    "breadth": ("/experts", {"measure": "breadth"}),
}
"""Where the numbers behind each of the four questions are: a page and its settings."""


def layer_labels(routers: RouterSet) -> list[str]:
    """The names of all layers, in order."""
    return router_set.layer_labels(routers)


def layer_choice(
    labels: Sequence[str],
    name: str = "layer",
    label: str = "Layer",
    default: int = 0,
    width: int | Literal["stretch"] = "stretch",
) -> int:
    """One layer by its row; the address holds the model's own number of it.

    Args:
        labels: names of all layers, such as "L12".
        name: in the address.
        label: of the list.
        default: row that is chosen at first.
        width: of the list, in pixels.
    """
    rows = {text.removeprefix("L"): row for row, text in enumerate(labels)}
    return links.choice(name, label, rows, default, shown=labels.__getitem__, width=width)


def metric_choice(help: str | None = None) -> str:
    """What makes two layers alike, by its id."""
    return links.choice(
        "metric",
        "Metric",
        list(LAYER_METRICS),
        "cka",
        shown=lambda name: LAYER_METRICS[name].label,
        help=help,
    )


def expert_choice(
    n_experts: int,
    width: int | Literal["stretch"] = "stretch",
    default: int = 0,
    names: Mapping[int, str] | None = None,
) -> int:
    """One expert by its number in the layer, with the name that somebody gave it."""

    def shown(expert: int) -> str:
        name = (names or {}).get(expert)
        return f"{expert_name(expert)} · {name}" if name else expert_name(expert)

    return links.choice("expert", "Expert", range(n_experts), default, shown=shown, width=width)


def expert_name(expert: int) -> str:
    """The name of an expert within its layer."""
    return f"E{expert}"


def answers(routers: RouterSet) -> list[Answer]:
    """The four questions, with the draws and the seed that are set."""
    null = null_settings.current()
    with st.spinner("Answering the four questions, each beside its null …"):
        return cached.four_questions(routers, null.draws - 1, null.seed)


def is_large(routers: RouterSet) -> bool:
    """Whether answers take seconds, so that a page is drawn before them."""
    many = routers.n_layers * routers.n_experts > FEW_EXPERTS
    return many or routers.routers.size > AT_ONCE


def findings(routers: RouterSet, page: str) -> list[Finding]:
    """The answers that this page shows in detail, as its first lines."""
    shown = [answer for answer in answers(routers) if QUESTION_VIEWS[answer.id][0] == page]
    return [answer.finding for answer in shown]


def ranking_note(canonical: np.ndarray, raw: np.ndarray, what: str) -> None:
    """A warning where a ranking on screen is another in the other view."""
    change = ranking_change(canonical, raw)
    if change.changes:
        st.caption(f":material/swap_vert: {change.sentence(what)}")


def heading(
    title: str,
    headline: Headline | Callable[[], Headline],
    how_to_read: str,
    routers: RouterSet,
    *,
    view: str | None = None,
    chance: bool = False,
) -> None:
    """The page's name, what it has found in a sentence, and what explains and shares it.

    `chance` offers the number of draws and the seed of the page's nulls. A headline that has to
    be made is, of large sets, made when the rest of the page stands, by `share`.
    """
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    ):
        st.title(title, anchor=False, width="content")
        with st.container(horizontal=True, width="content", gap="small", key="head_buttons"):
            if chance:
                with null_settings.place():
                    null_settings.controls()
            with st.popover("How to read", icon=":material/menu_book:"):
                st.markdown(marked(how_to_read))
            share = st.popover(
                "Share", icon=":material/link:", key="share_popover", on_change=_renew_link
            )
    SHARE.set(share)
    LATE.take()
    first_lines = st.empty()
    if callable(headline) and is_large(routers):
        first_lines.subheader(marked(ANSWERING), anchor=False)
        LATE.set((first_lines, headline))
    else:
        known = headline() if callable(headline) else headline
        with first_lines.container(key="first_lines"):
            finding_block.show(known)
    if view == "raw":
        st.caption(
            marked(
                "Raw routers: the figures below are of the weights as stored, which hold what "
                "softmax cannot see. The sentence above is of canonical routers."
            )
        )
    for sentence in caveats(routers):
        st.caption(marked(f":material/info: {sentence}"))


def share(routers: RouterSet, more: Callable[[], None] | None = None) -> None:
    """Fill the Share popover, and a finding that waits; call it when all else is drawn.

    Args:
        routers: that are shown.
        more: draws what the popover says below the link.
    """
    late = LATE.take()
    if late is not None:
        known = late[1]()
        with late[0].container(key="first_lines"):
            finding_block.show(known)
    popover = SHARE.take()
    if popover is None:
        return
    with popover:
        st.caption("This view, with the data's hash and the version:")
        _link(links.permalink(routers.sha256, version()))
        if more is not None:
            more()


@parts.part(key=LINK)
def _link(address: Callable[[], str]) -> None:
    """The link of this view as it is now: parts of a page are drawn without the rest."""
    st.code(address(), language=None, wrap_lines=True)


def _renew_link() -> None:
    """Draws the link anew, when what holds it is opened."""
    with suppress(StreamlitAPIException):  # a page that is not yet drawn as far as its link
        st.rerun(LINK)


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a figure come from.

    Attributes:
        sha256: of the data; the names of the files carry it.
        note: written into PNG and SVG when they are made.
    """

    sha256: str
    note: Callable[[], str]


def of_routers(routers: RouterSet) -> Provenance:
    """Provenance of a figure of the routers shown: link, data, version."""
    link = links.permalink(routers.sha256, version())
    words = f"data sha256 {routers.sha256} | Grok MoE Lens {version()}"
    return Provenance(routers.sha256, lambda: f"{link()} | {words}")


def of_model(sha256: str, what: str = "") -> Provenance:
    """Provenance of a figure of what a model did with somebody's text: no link leads there.

    Args:
        sha256: identity of the model's routers.
        what: was run, such as "12 prompts".
    """
    before = f"{what}, " if what else ""
    return Provenance(sha256, lambda: f"{before}model sha256 {sha256} | Grok MoE Lens {version()}")


class FigureOptions(TypedDict, total=False):
    """Options of `figure`."""

    words: tuple[str, ...]
    table: Callable[[], str] | None
    on_pick: OnPick | None
    stretch: bool
    scale: float


def figure(
    chart: alt.TopLevelMixin,
    key: str,
    origin: RouterSet | Provenance,
    *,
    words: tuple[str, ...] = (),
    table: Callable[[], str] | None = None,
    on_pick: OnPick | None = None,
    stretch: bool = False,
    scale: float = 1.0,
) -> None:
    """A chart with its title above it, its alternative text, its selection and its downloads.

    The title is text of the page, which breaks into lines as there is room and is read aloud.

    Args:
        chart: made by `lens.figures`.
        key: of the figure on the page, and the start of its files' names.
        origin: the routers that it shows, or where its numbers come from.
        words: that go into the files' names.
        table: its numbers as CSV, made when asked for.
        on_pick: told the fields of the mark that was clicked, before the page is drawn again.
        stretch: whether it takes the width there is; cells then get as wide as that allows.
        scale: makes the cells of a heatmap smaller on the page.
    """
    provenance = origin if isinstance(origin, Provenance) else of_routers(origin)
    with st.container(gap="xsmall"):
        _figure_title(chart)
        _draw(chart, key, key.replace("_", " "), on_pick, stretch, scale)
        downloads.row(
            key,
            downloads.file_stem(key, provenance.sha256, *words),
            chart=chart,
            table=table,
            note=provenance.note,
        )


def chart(drawn: alt.TopLevelMixin, key: str) -> None:
    """A small chart as wide as there is room, without title and downloads."""
    _draw(drawn, key, alt_text(drawn), None, True, 1.0)


def _draw(
    chart: alt.TopLevelMixin,
    key: str,
    name: str,
    on_pick: OnPick | None,
    stretch: bool,
    scale: float,
) -> None:
    """A chart alone, under a name that is read aloud; see `figure`.

    The name is part of what the browser builds anew where it changes: see `lens.figures.on_page`.
    """
    options: dict[str, Any] = {}
    if on_pick is not None:

        def picked() -> None:
            marks = picked_marks(key)
            if marks:
                on_pick(marks[-1])

        options = {"on_select": picked, "selection_mode": "pick"}
    dark = st.context.theme.type == "dark"
    spec, rows = figures.on_page(chart, dark=dark, stretch=stretch, scale=scale)
    st.vega_lite_chart(
        spec={**spec, "datasets": rows},
        theme=None,  # Streamlit's own moves the first and last label of an axis and skips others
        key=key,
        alt=name,
        width="stretch" if stretch else "content",
        **options,
    )


def _figure_title(chart: alt.TopLevelMixin) -> None:
    """A figure's title, its second lines and its alternative text, as text of the page."""
    title = getattr(chart, "title", None)
    words = title.to_dict() if isinstance(title, alt.TitleParams) else {}
    if words:
        st.markdown(f"**{marked(as_markdown(words['text']), skip=BASIC)}**")
    second = " ".join(words.get("subtitle") or [])
    said = as_markdown(alt_text(chart))
    st.caption(
        f'{marked(as_markdown(second), skip=BASIC)}<span class="in-words"> {said}</span>',
        unsafe_allow_html=True,
    )
