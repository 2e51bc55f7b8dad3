"""What the experts take in a run that is stored beside the model of the routers shown."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from lens.errors import LensError
from lens.many_prompts.expert_cards import FILE, ExpertCards, load_cards
from lens.routers.router_set import RouterSet
from pages.shell import data_source


@st.cache_resource(max_entries=4, show_spinner=False)
def _cards(file: str, modified: float) -> ExpertCards | None:
    try:
        return load_cards(file)
    except LensError:
        return None  # a page without it says less, and is whole


def cards_of(routers: RouterSet) -> ExpertCards | None:
    """The stored run of these routers' model, or None."""
    named = data_source.configured().checkpoint
    for folder in (data_source.bundled_checkpoint(), *([Path(named)] if named else [])):
        file = folder / FILE
        try:
            cards = _cards(str(file), file.stat().st_mtime)
        except OSError:
            continue
        shape = (routers.n_layers, routers.n_experts)
        if cards is not None and cards.model_sha256 == routers.sha256:
            if cards.share.shape[1:] == shape:
                return cards
    return None
