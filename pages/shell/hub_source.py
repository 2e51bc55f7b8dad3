"""Routers fetched from the Hugging Face Hub at the press of a button; can be switched off."""

from __future__ import annotations

import os

import streamlit as st

from lens.errors import LensError
from pages.shell import links

SWITCH = "GROK_LENS_HUB"
KEPT = "hub_routers"
REPOSITORY = "xai-org/grok-1"


def allowed() -> bool:
    """Whether this app may fetch from the Hub: yes, unless the environment says no."""
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
        if wanted:
            fetch((repository or "").strip(), slot)
        elif "hub_error" in st.session_state:
            st.error(st.session_state["hub_error"], icon=":material/error:")


def fetch(repository: str, slot: st.delta_generator.DeltaGenerator) -> None:
    """Fetches with progress, keeps the routers for this session, and shows them."""
    from lens.extract.hub import extract_from_hub, shown

    st.session_state.pop("hub_error", None)
    with slot.container():
        bar = st.progress(0.0, "Asking the Hub …")

        def progress(done: int, total: int) -> None:
            bar.progress(done / max(total, 1), f"Fetching: {shown(done, total)}")

        try:
            routers, _ = extract_from_hub(repository, progress=progress)
        except LensError as error:
            st.session_state["hub_error"] = str(error)
            st.rerun()
    st.session_state[KEPT] = routers
    links.choose(source="hub")
    st.rerun()
