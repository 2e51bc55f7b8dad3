"""Routers fetched from the Hugging Face Hub at the press of a button; can be switched off."""

from __future__ import annotations

import os

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lens.errors import LensError
from lens.routers.router_set import RouterSet
from pages.access import settings
from pages.access.messages import told
from pages.shell import links
from pages.shell.session_keys import SessionKey, SessionValue

SWITCH = "GROK_LENS_HUB"
ROUTERS = SessionValue[RouterSet](SessionKey.HUB_ROUTERS)
ERROR = SessionValue[str](SessionKey.HUB_ERROR)
REPOSITORY = "xai-org/grok-1"


def allowed() -> bool:
    """True where this app may fetch from the Hub.

    On a machine of one's own unless the environment says no, on a server only where it names the
    repositories.
    """
    access = settings.current()
    if access.is_server and not access.repositories:
        return False
    return os.environ.get(SWITCH, "").strip().lower() not in ("0", "off", "no", "false")


def section() -> None:
    """The part of the sidebar that fetches routers."""
    if not allowed():
        return
    with st.expander("From the Hugging Face Hub", icon=":material/cloud_download:"):
        repository = _repository(
            "Of Grok-1 14.2 MB are fetched, the routers and the norms before them; of models "
            "in safetensors files only the routers' byte ranges. Files of checkpoints are kept in "
            "the Hub's cache on the machine that runs this app.",
        )
        wanted = st.button("Fetch routers", key="hub_fetch", icon=":material/download:")
        slot = st.empty()
        problem = ERROR.get()
        if wanted:
            fetch((repository or "").strip(), slot)
        elif problem is not None:
            st.error(told(problem), icon=":material/error:")


def _repository(help: str) -> str | None:
    """A repository that is typed; on a server one of those that it allows."""
    named = settings.current().repositories
    if named:
        return st.selectbox("Repository", named, key="hub_repository", help=help)
    return st.text_input("Repository", REPOSITORY, key="hub_repository", max_chars=200, help=help)


def fetch(repository: str, slot: DeltaGenerator) -> None:
    """Fetch routers with progress, keep them for this session, and show them."""
    from lens.extract.hub import extract_from_hub, shown

    ERROR.drop()
    access = settings.current()
    if (access.is_server or access.repositories) and repository not in access.repositories:
        ERROR.set("This repository is not among those that may be fetched here.")
        st.rerun()
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
