"""Routers fetched from the Hugging Face Hub at the press of a button; can be switched off."""

from __future__ import annotations

import os

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lens.errors import LensError
from lens.escaping import as_markdown
from lens.routers.router_set import RouterSet
from pages.shell import links
from pages.shell.session_keys import SessionKey, SessionValue

SWITCH = "GROK_LENS_HUB"
ROUTERS = SessionValue[RouterSet](SessionKey.HUB_ROUTERS)
ERROR = SessionValue[str](SessionKey.HUB_ERROR)
REPOSITORY = "xai-org/grok-1"


def allowed() -> bool:
    """True where this app may fetch from the Hub: unless the environment says no."""
    return os.environ.get(SWITCH, "").strip().lower() not in ("0", "off", "no", "false")


def section() -> None:
    """The part of the sidebar that fetches routers."""
    if not allowed():
        return
    with st.expander("From the Hugging Face Hub", icon=":material/cloud_download:"):
        repository = st.text_input(
            "Repository",
            REPOSITORY,
            key="hub_repository",
            max_chars=200,
            help="Of Grok-1 14.2 MB are fetched, the routers and the norms before them; of models "
            "in safetensors files only the routers' byte ranges. Files of checkpoints are kept in "
            "the Hub's cache on the machine that runs this app.",
        )
        wanted = st.button("Fetch routers", key="hub_fetch", icon=":material/download:")
        slot = st.empty()
        problem = ERROR.get()
        if wanted:
            fetch((repository or "").strip(), slot)
        elif problem is not None:
            st.error(as_markdown(problem), icon=":material/error:")


def fetch(repository: str, slot: DeltaGenerator) -> None:
    """Fetch routers with progress, keep them for this session, and show them."""
    from lens.extract.hub import extract_from_hub, shown

    ERROR.drop()
    with slot.container():
        bar = st.progress(0.0, "Asking the Hub …")

        def progress(done: int, total: int) -> None:
            bar.progress(done / max(total, 1), f"Fetching: {shown(done, total)}")

        try:
            routers, _ = extract_from_hub(repository, progress=progress)
        except LensError as error:
            ERROR.set(str(error))
            st.rerun()
    ROUTERS.set(routers)
    links.choose(source="hub")
    st.rerun()
