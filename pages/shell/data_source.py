"""The routers that the pages show: the bundled model's, a file's, a checkpoint's or an upload's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from grok.checkpoints.model_files import folder_identity
from grok.config import BUNDLED_MODEL
from grok.errors import GrokError
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.glossary import help_of
from lens.recipe.steps import note
from lens.routers.router_set import RouterSet, kind_of_npz, load_routers, with_top_k
from lens.storage.disk_cache import DiskCache
from lens.traces.trace import Trace, load_trace
from pages.access.messages import told
from pages.shell import hub_source, links
from pages.shell.session_keys import SessionKey, SessionValue, widget
from pages.shell.startup import startup_options

ROUTERS_VARIABLE = "GROK_LENS_ROUTERS"
CHECKPOINT_VARIABLE = "GROK_LENS_CHECKPOINT"
UPLOADED_ROUTERS = SessionValue[RouterSet](SessionKey.UPLOADED_ROUTERS)
UPLOADED_TRACE = SessionValue[tuple[str, Trace]](SessionKey.UPLOADED_TRACE)
UPLOAD_ERROR = SessionValue[str](SessionKey.UPLOAD_ERROR)
UPLOAD_KIND = SessionValue[str](SessionKey.UPLOAD_KIND)
UPLOADED_NAME = SessionValue[str](SessionKey.UPLOADED_NAME)
TRACE_SHOWN = SessionValue[str](SessionKey.TRACE_SHOWN)

NAMES = {
    "bundled": "Bundled model",
    "file": "Router file",
    "checkpoint": "Checkpoint",
    "upload": "Upload",
    "hub": "Hugging Face Hub",
}


@dataclass(frozen=True)
class Configured:
    """Files that the command line or the environment names."""

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
def _checkpoint_routers(checkpoint: str, identity: str) -> RouterSet:
    from lens.extract.folder import folder_routers, kept_routers

    if checkpoint == str(bundled_checkpoint()):  # small
        return folder_routers(checkpoint)
    routers = kept_routers(checkpoint, DiskCache())
    note(routers, folder_routers, checkpoint)
    return routers


@st.cache_resource(max_entries=4, show_spinner="Reading the router file …")
def _file_routers(path: str, identity: str) -> RouterSet:
    return load_routers(path)


def _identity(path: str | Path) -> str:
    """What tells that a file or a checkpoint is the same, so that a replaced one is read again."""
    path = Path(path)
    if path.is_dir():
        return folder_identity(path)
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns}|{found.st_size}|{found.st_ino}"


def available() -> list[str]:
    """Ids of the sources that can be chosen now; the first is the default."""
    found = configured()
    named = [("file", found.routers), ("checkpoint", found.checkpoint)]
    sources = [name for name, path in named if path] + ["bundled"]
    if UPLOADED_ROUTERS.get() is not None:
        sources.append("upload")
    if hub_source.ROUTERS.get() is not None:
        sources.append("hub")
    return sources


def routers_of(source: str) -> RouterSet:
    """The routers of one source.

    Raises:
        LensError, GrokError: they cannot be read; the text is fit for the reader.
    """
    found = configured()
    if source == "file" and found.routers:
        return _file_routers(found.routers, _identity(found.routers))
    if source == "checkpoint" and found.checkpoint:
        return _checkpoint_routers(found.checkpoint, _identity(found.checkpoint))
    kept = {"upload": UPLOADED_ROUTERS, "hub": hub_source.ROUTERS}
    routers = kept[source].get() if source in kept else None
    if routers is not None:
        return routers
    path = bundled_checkpoint()
    return _checkpoint_routers(str(path), _identity(path))


def source() -> str:
    """Id of the source whose routers every page shows in this session."""
    sources = available()
    chosen = links.chosen("source", sources[0])
    return chosen if chosen in sources else sources[0]


def current() -> RouterSet:
    """The routers that every page shows in this session; ends the run where there are none."""
    try:
        return routers_of(source())
    except (LensError, GrokError) as error:
        why = told(error)
        st.error(why, icon=":material/error:", title="These routers could not be opened")
        st.caption("Choose another source in the sidebar, or open a file there.")
        st.stop()


def uploaded_trace() -> tuple[str, Trace] | None:
    """Name and content of the saved trace opened in this session."""
    return UPLOADED_TRACE.get()


def _take_upload(box: str = "upload") -> None:
    """Check an uploaded file and keep it for this session alone."""
    UPLOAD_ERROR.drop()
    UPLOAD_KIND.drop()
    file = widget(box).get()
    if file is None:
        return
    try:
        kind = kind_of_npz(file)
        file.seek(0)
        if kind == "routers":
            UPLOADED_ROUTERS.set(load_routers(file))
            UPLOADED_NAME.set(str(file.name))
            widget("upload_top_k").drop()
            links.choose(source="upload")
        else:
            UPLOADED_TRACE.set((file.name, load_trace(file)))
            TRACE_SHOWN.set("file")
        UPLOAD_KIND.set(kind)
    except LensError as error:
        UPLOAD_ERROR.set(str(error))


def sidebar(with_view: bool = True) -> None:
    """Controls and description of the data source.

    Args:
        with_view: whether the page shows routers, in the view that is chosen here.
    """
    with st.sidebar:
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
        if missing() is None:
            links.let_go("file")
        if links.chosen("source", sources[0]) == "upload":
            links.show("file", short_name(UPLOADED_NAME.get() or ""))
        _describe()
        if with_view:
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
        problem, kind = UPLOAD_ERROR.get(), UPLOAD_KIND.get()
        if problem is not None:
            st.error(told(problem), icon=":material/error:")
        elif kind == "trace":
            st.success("Trace opened: see Live routing.", icon=":material/check:")
        elif kind == "routers":
            st.success("Router set opened.", icon=":material/check:")


def missing() -> str | None:
    """The source that the link asks for and only a person can open: "upload" or "hub"."""
    asked = links.pending("source")
    return asked if asked in ("upload", "hub") and asked not in available() else None


def open_first(source: str) -> None:
    """Asks for the file that a link speaks of, in place of the page that would show it."""
    name = short_name(links.pending("file") or "")
    file = f"the file “{as_markdown(name)}”" if name else "the file with its routers"
    data = links.DATA.get() or ""
    if source == "upload":
        st.subheader(f"Open {file} first", anchor=False)
        st.markdown(
            "This link shows a router set that somebody opened from a file. A link holds no file: "
            "open yours here, and the view of the link appears."
        )
        if data:
            st.caption(f"The file's routers have the SHA-256 {as_markdown(data[:12])}….")
        st.file_uploader(
            "Router set (.npz)",
            ["npz"],
            key="upload_first",
            on_change=_take_upload,
            args=("upload_first",),
        )
        if UPLOAD_KIND.get() == "trace":
            st.info("That file is a saved trace. This link needs a router set.")
        problem = UPLOAD_ERROR.get()
        if problem is not None:
            st.error(told(problem), icon=":material/error:")
    else:
        st.subheader("Fetch the routers first", anchor=False)
        st.markdown(
            "This link shows routers that somebody fetched from the Hugging Face Hub. Fetch the "
            "same ones in the sidebar, and the view of the link appears."
        )

    def go_on() -> None:
        for known in ("source", "file"):
            links.let_go(known)

    st.button(
        f"Show the {NAMES[available()[0]].lower()} instead",
        key="bundled_instead",
        icon=":material/arrow_forward:",
        on_click=go_on,
    )
    links.hold()


def short_name(name: str) -> str:
    """A file's name as a link holds it."""
    return "".join(letter for letter in name if letter.isprintable())[-80:]


def _describe() -> None:
    """Shape, identity and what is not known of the current routers."""
    own = source()
    try:
        routers = routers_of(own)
    except (LensError, GrokError):
        st.caption("Not readable.")
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{NAMES[own]}**", width="stretch")
        with st.popover("", icon=":material/info:", type="tertiary", help="Where this comes from"):
            st.caption(
                f"Source: {as_markdown(routers.source)} · {as_markdown(routers.score)} gates"
            )
            st.caption(f"SHA-256 `{routers.sha256[:12]}`")
    size = f"{routers.n_layers} layers × {routers.n_experts} experts"
    if routers.n_layers == 1:
        size = f"1 layer of {routers.n_experts} experts"
    st.caption(f"{size}, {routers.top_k} for each token; {routers.d_model:,} wide")
    if not routers.top_k_known:
        _ask_top_k(routers, uploaded=own == "upload")
    if routers.norm_scales is None:
        st.badge("norm scales unknown", icon=":material/help:", color="orange")
    asked = links.DATA.get()
    if asked and missing() is None and not routers.sha256.startswith(asked[:12]):
        made = as_markdown(asked[:12])
        st.warning(
            f"The link was made with data {made}…, these are {routers.sha256[:12]}….",
            icon=":material/link:",
        )


def _ask_top_k(routers: RouterSet, *, uploaded: bool) -> None:
    """Ask how many experts a token goes to, where a file doesn't say: answers depend on it."""
    st.badge("experts for each token unknown", icon=":material/help:", color="orange")
    if not uploaded:
        return
    box = widget("upload_top_k")

    def take() -> None:
        UPLOADED_ROUTERS.set(with_top_k(routers, int(box.get())))

    if not box.known:
        box.set(routers.top_k)
    st.number_input(
        "How many experts does a token go to?",
        1,
        routers.n_experts,
        step=1,
        key="upload_top_k",
        on_change=take,
        help=help_of(
            "The file has no `top_k`; 2 is taken until you say. Breadth and the fourth question "
            "depend on it.",
            "experts, token, breadth",
        ),
    )


def view() -> str:
    """The switch between canonical and raw routers."""
    return links.segments(
        "view",
        "View",
        ["canonical", "raw"],
        "canonical",
        shown={"canonical": "Canonical", "raw": "Raw"}.__getitem__,
        help="Canonical: diag(γ)·W·(I − 11ᵀ/E), the norm's scale folded in and what softmax "
        "cannot see removed. Raw: the weights as stored.",
    )


def current_view() -> str:
    """The view chosen in the sidebar."""
    return links.chosen("view", "canonical")
