"""Which routers the pages show: the bundled model's, a file's, a checkpoint's or an upload's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from grok.config import BUNDLED_MODEL
from grok.errors import GrokError
from lens.errors import LensError
from lens.routers.router_set import RouterSet, kind_of_npz, load_routers
from lens.traces.trace import Trace, load_trace
from pages.shell import hub_source, links
from pages.shell.startup import startup_options

ROUTERS_VARIABLE = "GROK_LENS_ROUTERS"
CHECKPOINT_VARIABLE = "GROK_LENS_CHECKPOINT"

NAMES = {
    "bundled": "Bundled model",
    "file": "Router file",
    "checkpoint": "Checkpoint",
    "upload": "Upload",
    "hub": "Hugging Face Hub",
}


@dataclass(frozen=True)
class Configured:
    """What the command line or the environment names."""

    routers: str | None
    checkpoint: str | None


def configured() -> Configured:
    """`--routers` and `--checkpoint` after `--`, else the environment variables."""
    found = startup_options(routers=ROUTERS_VARIABLE, checkpoint=CHECKPOINT_VARIABLE)
    return Configured(found["routers"], found["checkpoint"])


def bundled_checkpoint() -> Path:
    """The model that ships with the project."""
    return BUNDLED_MODEL


@st.cache_resource(max_entries=4, show_spinner="Reading the routers of the checkpoint …")
def _checkpoint_routers(checkpoint: str, modified: float) -> RouterSet:
    from lens.extract.grok1 import extract_routers

    return extract_routers(checkpoint)


@st.cache_resource(max_entries=4, show_spinner="Reading the router file …")
def _file_routers(path: str, modified: float) -> RouterSet:
    return load_routers(path)


def _modified(path: str | Path) -> float:
    """When a path last changed, so that a replaced file is read again."""
    path = Path(path)
    inner = path / "ckpt-0"
    try:
        return (inner if inner.is_dir() else path).stat().st_mtime
    except OSError:
        return 0.0


def available() -> list[str]:
    """Ids of the sources that can be chosen now; the first is the default."""
    found = configured()
    named = [("file", found.routers), ("checkpoint", found.checkpoint)]
    sources = [name for name, path in named if path] + ["bundled"]
    if st.session_state.get("uploaded_routers") is not None:
        sources.append("upload")
    if st.session_state.get(hub_source.KEPT) is not None:
        sources.append("hub")
    return sources


def routers_of(source: str) -> RouterSet:
    """The routers of one source.

    Raises:
        LensError, GrokError: they cannot be read; the text is fit for the reader.
    """
    found = configured()
    if source == "file" and found.routers:
        return _file_routers(found.routers, _modified(found.routers))
    if source == "checkpoint" and found.checkpoint:
        return _checkpoint_routers(found.checkpoint, _modified(found.checkpoint))
    if source == "upload" and st.session_state.get("uploaded_routers") is not None:
        return st.session_state["uploaded_routers"]
    if source == "hub" and st.session_state.get(hub_source.KEPT) is not None:
        return st.session_state[hub_source.KEPT]
    path = bundled_checkpoint()
    return _checkpoint_routers(str(path), _modified(path))


def current() -> RouterSet:
    """The routers that every page shows in this session; ends the run where there are none."""
    sources = available()
    source = links.chosen("source", sources[0])
    try:
        return routers_of(source if source in sources else sources[0])
    except (LensError, GrokError) as error:
        st.error(str(error), icon=":material/error:", title="These routers could not be opened")
        st.caption("Choose another source in the sidebar, or open a file there.")
        st.stop()


def uploaded_trace() -> tuple[str, Trace] | None:
    """Name and content of the saved trace opened in this session."""
    return st.session_state.get("uploaded_trace")


def _take_upload() -> None:
    """Check an uploaded file and keep it for this session alone."""
    state = st.session_state
    state.pop("upload_error", None)
    state.pop("upload_kind", None)
    file: Any = state.get("upload")
    if file is None:
        return
    try:
        kind = kind_of_npz(file)
        file.seek(0)
        if kind == "routers":
            state["uploaded_routers"] = load_routers(file)
            links.choose(source="upload")
        else:
            state["uploaded_trace"] = (file.name, load_trace(file))
            state["trace_shown"] = "file"
        state["upload_kind"] = kind
    except LensError as error:
        state["upload_error"] = str(error)


def sidebar() -> None:
    """Controls and description of the data source."""
    with st.sidebar:
        st.markdown("**Data**")
        sources = available()
        if len(sources) > 1:
            links.choice(
                "source",
                "Routers from",
                sources,
                sources[0],
                shown=NAMES.__getitem__,
                collapsed=True,
            )
        else:
            st.caption(NAMES[sources[0]])
        _describe()
        view()
        with st.expander("Open a file", icon=":material/upload_file:"):
            st.file_uploader(
                "A router set or a saved trace (.npz)",
                type=["npz"],
                key="upload",
                on_change=_take_upload,
                help="Router sets come from `python -m lens.extract`, traces from the Live "
                "routing page or `python -m grok.run --trace`. Files are checked, never executed, "
                "and seen by this browser session alone.",
            )
        hub_source.section()
        # Below the expander: it closes when the list of sources above it appears.
        if "upload_error" in st.session_state:
            st.error(st.session_state["upload_error"], icon=":material/error:")
        elif st.session_state.get("upload_kind") == "trace":
            st.success("Trace opened: see Live routing.", icon=":material/check:")
        elif st.session_state.get("upload_kind") == "routers":
            st.success("Router set opened.", icon=":material/check:")


def _describe() -> None:
    """Shape, identity and what is not known of the current routers."""
    sources = available()
    source = links.chosen("source", sources[0])
    try:
        routers = routers_of(source if source in sources else sources[0])
    except (LensError, GrokError):
        st.caption("Not readable.")
        return
    st.caption(
        f"{routers.n_layers} layers × {routers.n_experts} experts, width {routers.d_model:,}, "
        f"top {routers.top_k}  \nSHA-256 `{routers.sha256[:12]}`"
    )
    if routers.norm_scales is None:
        st.badge("norm scales unknown", icon=":material/help:", color="orange")
    asked = st.session_state.get("link_data")
    if asked and not routers.sha256.startswith(asked[:12]):
        st.warning(
            f"The link was made with data {asked[:12]}…, these are {routers.sha256[:12]}….",
            icon=":material/link:",
        )


def view() -> str:
    """The switch between canonical and raw routers."""
    return links.choice(
        "view",
        "View",
        ["canonical", "raw"],
        "canonical",
        shown={"canonical": "Canonical", "raw": "Raw"}.__getitem__,
        widget="segments",
        help="Canonical: diag(γ)·W·(I − 11ᵀ/E), the norm's scale folded in and what softmax "
        "cannot see removed. Raw: the weights as stored.",
    )


def current_view() -> str:
    """The view chosen in the sidebar."""
    return links.chosen("view", "canonical")
