"""Pieces that every page is made of: heading, explanation, figure with its downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import altair as alt
import numpy as np
import streamlit as st

from lens import cached
from lens.figures import alt_text
from lens.layers.ranking import ranking_change
from lens.questions import Answer
from lens.routers.caveats import caveats
from lens.routers.router_set import RouterSet
from lens.version import version
from pages.shell import downloads, links, null_settings

QUESTION_VIEWS: dict[str, tuple[str, dict[str, str]]] = {
    "adjacent": ("/layers", {"metric": "cka"}),
    "depth": ("/clustering", {"metric": "cka"}),
    "same_expert": ("/experts", {"metric": "matched_cosine", "tab": "chains"}),
    "breadth": ("/experts", {"measure": "breadth"}),
}
"""Where the numbers behind each of the four questions are: a page and its settings."""


def layer_labels(routers: RouterSet) -> list[str]:
    """The names of all layers, in order."""
    return [routers.label(layer) for layer in range(routers.n_layers)]


def layer_choice(
    routers: RouterSet, name: str = "layer", label: str = "Layer", default: int = 0
) -> int:
    """One layer by its row; the address holds the model's own number of it."""
    ids = [str(i) for i in np.asarray(routers.layer_ids)]
    return links.choice(
        name,
        label,
        range(routers.n_layers),
        default,
        text=ids.__getitem__,
        shown=routers.label,
    )


def expert_choice(routers: RouterSet) -> int:
    """One expert by its number in the layer."""
    return links.choice(
        "expert", "Expert", range(routers.n_experts), 0, shown=lambda expert: f"E{expert}"
    )


def answers(routers: RouterSet) -> list[Answer]:
    """The four questions, with the draws and the seed that are set."""
    null = null_settings.current()
    with st.spinner("Answering the four questions, each beside its null …"):
        return cached.four_questions(routers, null.draws - 1, null.seed)


def finding(routers: RouterSet, page: str) -> str:
    """The answers that this page shows in detail, as its first lines."""
    shown = [answer for answer in answers(routers) if QUESTION_VIEWS[answer.id][0] == page]
    return " ".join(answer.sentence for answer in shown)


def ranking_note(canonical: np.ndarray, raw: np.ndarray, what: str) -> None:
    """A warning where a ranking on screen is another in the other view."""
    change = ranking_change(canonical, raw)
    if change.changes:
        st.caption(f":material/swap_vert: {change.sentence(what)}")


def heading(
    title: str,
    finding: str,
    how_to_read: str,
    routers: RouterSet,
    *,
    view: str | None = None,
    chance: bool = False,
) -> None:
    """The page's name, its finding in a sentence, and what explains and shares it.

    `chance` offers the number of draws and the seed of the page's nulls.
    """
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    ):
        st.title(title, anchor=False, width="content")
        with st.container(horizontal=True, width="content", gap="small"):
            if chance:
                null_settings.popover()
            with st.popover("How to read", icon=":material/menu_book:"):
                st.markdown(how_to_read)
            share = st.popover("Share", icon=":material/link:")
    st.session_state["share"] = share
    st.subheader(finding, anchor=False)
    if view is not None:
        raw = " (weights as stored; softmax cannot see what their columns share)"
        st.caption(f"{view.capitalize()} routers{raw if view == 'raw' else ''}")
    for sentence in caveats(routers):
        st.caption(f":material/info: {sentence}")


def share(routers: RouterSet) -> None:
    """Fill the Share popover; call it when the page's choices have been made."""
    popover = st.session_state.pop("share", None)
    if popover is None:
        return
    with popover:
        st.caption("This view, with the data's hash and the version:")
        address = links.permalink(routers.sha256, version())()
        st.code(address, language=None, wrap_lines=True)


def note(routers: RouterSet) -> Callable[[], str]:
    """Provenance of a figure, made when asked for: link, data, version."""
    link = links.permalink(routers.sha256, version())
    words = f"data sha256 {routers.sha256} | Grok MoE Lens {version()}"
    return lambda: f"{link()} | {words}"


def figure(
    chart: alt.TopLevelMixin,
    key: str,
    routers: RouterSet,
    *,
    words: tuple[str, ...] = (),
    table: Callable[[], str] | None = None,
    on_pick: Callable[[Mapping[str, Any]], None] | None = None,
    stretch: bool = False,
    scale: float = 1.0,
    sha256: str | None = None,
    provenance: Callable[[], str] | None = None,
) -> None:
    """A chart with its alternative text, its selection and its downloads.

    `on_pick` receives the fields of the mark that was clicked, before the page
    is drawn again. `scale` makes the cells of a heatmap smaller on the page.
    """
    arguments: dict[str, Any] = {
        "key": key,
        "alt": alt_text(chart),
        "width": "stretch" if stretch else "content",
    }
    if on_pick is not None:

        def picked() -> None:
            marks = st.session_state[key].selection.get("pick") or []
            if marks:
                on_pick(marks[-1])

        arguments.update(on_select=picked, selection_mode="pick")
    spec = specification(chart)
    spec.pop("description", None)  # `alt` takes its place
    # Streamlit would fit titles, axes and legends into the height of the plot.
    spec["autosize"] = {"type": "fit-x" if stretch else "pad", "contains": "padding"}
    for side in ("width", "height"):
        step = spec.get(side)
        if isinstance(step, dict) and "step" in step:
            spec[side] = {"step": max(3, round(step["step"] * scale))}
    st.vega_lite_chart(spec=spec, **arguments)
    downloads.row(
        key,
        downloads.file_stem(key, sha256 or routers.sha256, *words),
        chart=chart,
        table=table,
        note=provenance or note(routers),
    )


def specification(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as Vega-Lite with its data in place.

    Altair gathers the data of joined charts under names, or at the top; Streamlit
    would take the text found there for a table.
    """
    # The figures' own tests validate them; doing it for every visitor doubles the time.
    spec = chart.to_dict(validate=False)
    named = spec.pop("datasets", {})

    def put_data_in(part: Any) -> None:
        if isinstance(part, dict):
            data = part.get("data")
            if isinstance(data, dict) and data.get("name") in named:
                data["values"] = named[data.pop("name")]
            for inner in part.values():
                put_data_in(inner)
        elif isinstance(part, list):
            for inner in part:
                put_data_in(inner)

    put_data_in(spec)
    children = spec.get("layer") or spec.get("vconcat") or spec.get("hconcat") or []
    if children and "data" in spec:
        shared = spec.pop("data")
        for child in children:
            child.setdefault("data", shared)
    return spec
