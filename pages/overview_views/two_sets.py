"""A second router set beside the one at hand: which layers and experts differ."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import streamlit as st

from grok.errors import GrokError
from lens import cached, figures
from lens.compare import findings, parts
from lens.compare.headline import headline
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.model_pairs.comparison import Comparison, why_not_directions
from lens.model_pairs.depth_profiles import Profile
from lens.routers.router_set import RouterSet, kind_of_npz, load_routers
from lens.version import version
from pages.access.messages import told
from pages.shell import data_source, finding_block, layout, links, null_settings
from pages.shell.layout import Provenance
from pages.shell.session_keys import SessionKey, SessionValue, widget

SECOND = SessionValue[RouterSet](SessionKey.SECOND_ROUTERS)
PROBLEM = SessionValue[str](SessionKey.SECOND_PROBLEM)
RUN = SessionValue[tuple[Hashable, ...]](SessionKey.TWO_SETS_RUN)
NONE, FILE = "none", "second"
TABS = {"layers": "Layers", "experts": "Experts", "depth": "Over depth"}


def show(routers: RouterSet) -> None:
    """The second set, chosen or opened, and what the comparison says."""
    others = [name for name in data_source.available() if name != data_source.source()]
    names = [NONE, *others, *([FILE] if SECOND.get() is not None else [])]
    asked = links.chosen("beside", NONE)
    with st.expander(
        "Compare with another router set",
        icon=":material/compare_arrows:",
        expanded=asked != NONE or PROBLEM.get() is not None,
    ):
        st.caption(
            "Two checkpoints of one training, or a model and its fine-tune: which layers and "
            "experts changed. Models of other sizes are compared by how their layers relate."
        )
        chosen = NONE
        if len(names) > 1:
            chosen = links.choice("beside", "Second set", names, NONE, shown=_name)
        st.file_uploader(
            "Open the second set (.npz)", type=["npz"], key="second_upload", on_change=_take
        )
        problem = PROBLEM.get()
        if problem is not None:
            st.error(told(problem), icon=":material/error:")
        if chosen != NONE:
            _compared(routers, chosen)


def _name(source: str) -> str:
    return {NONE: "None", FILE: "The file below"}.get(source) or data_source.NAMES[source]


def _take() -> None:
    """Check the file that was opened and keep it for this session alone."""
    PROBLEM.drop()
    file = widget("second_upload").get()
    if file is None:
        return
    try:
        if kind_of_npz(file) != "routers":
            raise LensError(f"{file.name} is a saved trace; expected a router set.")
        file.seek(0)
        SECOND.set(load_routers(file))
        links.choose(beside=FILE)
    except LensError as error:
        PROBLEM.set(str(error))


def _compared(a: RouterSet, chosen: str) -> None:
    kept = SECOND.get() if chosen == FILE else None
    try:
        b = kept if kept is not None else data_source.routers_of(chosen)
    except (LensError, GrokError) as error:
        st.error(told(error), icon=":material/error:")
        return
    view, null = data_source.current_view(), null_settings.current()
    metric = links.chosen("metric", "cka")
    run = (a.key, b.key, view, metric, null)
    if (layout.is_large(a) or layout.is_large(b)) and RUN.get() != run:
        if not st.button("Compare (takes a minute or more)", icon=":material/play_arrow:"):
            return
        RUN.set(run)
    with st.spinner("Comparing, beside chance …", show_time=True):
        why = why_not_directions(a, b)
        settings = (view, null.draws, null.seed)
        found = None
        if why is None:
            found = cached.comparison(a, b, metric, *settings)
        alike = cached.structure(a, b, *settings)
        profiles = cached.profiles(a, b, *settings)
    sections = findings.findings_of(a, b, found, alike, profiles)
    detail = "\n".join(f"- {line}" for lines in sections.values() for line in lines)
    if why is not None:
        st.warning(
            f"Expert by expert these sets cannot be compared: {why}.", icon=":material/info:"
        )
    st.markdown(f"**A:** {as_markdown(a.source)} · **B:** {as_markdown(b.source)}")
    finding_block.line(headline(a, found, alike, detail))
    _figures(a, b, found, profiles)


def _figures(a: RouterSet, b: RouterSet, found: Comparison | None, profiles: list[Profile]) -> None:
    words = f"A sha256 {a.sha256} | B sha256 {b.sha256} | Grok MoE Lens {version()}"
    origin, files = Provenance(a.sha256, lambda: words), (b.sha256[:8],)
    labels = layout.layer_labels(a)
    tabs = TABS if found is not None else {"depth": TABS["depth"]}
    for tab, container in links.tabs("differs_in", tabs):
        with container, _told():
            if tab == "depth" or found is None:
                layout.figure(
                    figures.profiles_over_depth(profiles),
                    "profiles_over_depth",
                    origin,
                    words=files,
                    table=lambda: parts.profiles_csv(a, b, profiles),
                )
            elif tab == "experts":
                layout.figure(
                    figures.experts_changed(found, labels),
                    "experts_changed",
                    origin,
                    stretch=True,
                    words=files,
                    table=lambda: parts.experts_csv(a, b, found),
                )
            else:
                layout.figure(
                    figures.layers_changed(found, labels),
                    "layers_changed",
                    origin,
                    stretch=True,
                    words=files,
                    table=lambda: parts.layers_csv(a, b, found),
                )
                layout.figure(
                    figures.layers_across(found, labels, layout.layer_labels(b)),
                    "layers_across",
                    origin,
                    words=files,
                )


@contextmanager
def _told() -> Iterator[None]:
    """A figure that cannot be drawn says why in its place."""
    try:
        yield
    except LensError as error:
        st.caption(told(error))
