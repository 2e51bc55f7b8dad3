"""Databases of features: those that ship with the bundled model, and those named at the start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from grok.config import BUNDLED_DICTIONARIES
from lens.errors import LensError
from lens.features.store import FeatureStore
from lens.features.summary import MANIFEST, Summary
from lens.routers.router_set import RouterSet
from pages.shell.startup import startup_options

FEATURES_VARIABLE = "GROK_LENS_FEATURES"
KINDS: Mapping[str, str] = {
    "sae": "What routers read",
    "transcoder": "What experts add",
    "clt": "Across layers",
    "crosscoder": "Several places at once",
    "expert_transcoder": "Expert by expert",
}
"""What each kind of dictionary takes apart, in a few words."""


def folders() -> dict[str, Path]:
    """Folders of databases by the ids that links have for them; they need not be readable."""
    found = {}
    named = startup_options(features=FEATURES_VARIABLE)["features"]
    for i, one in enumerate((named or "").split(os.pathsep)):
        if one:
            found["own" if i == 0 else f"own{i + 1}"] = Path(one)
    for kind in KINDS:
        folder = BUNDLED_DICTIONARIES / kind / "features"
        if (folder / MANIFEST).is_file():
            found[kind] = folder
    return found


@st.cache_resource(max_entries=8, show_spinner="Opening the database of features …")
def _opened(folder: str, identity: tuple[int, int]) -> FeatureStore:
    return FeatureStore.open(folder)


def opened(folder: Path) -> FeatureStore:
    """The database of a folder, opened once for all sessions and again when it was replaced.

    Raises:
        LensError: there is none, or a damaged one.
    """
    try:
        found = (folder / MANIFEST).stat()
    except OSError as error:
        raise LensError(f"There is no database of features ({error.strerror}).") from error
    return _opened(str(folder), (found.st_mtime_ns, found.st_size))


def of_routers(routers: RouterSet) -> tuple[dict[str, FeatureStore], list[LensError]]:
    """The databases whose features were learned of these routers' model, by their ids.

    Returns:
        Databases, and why others could not be opened.
    """
    stores, problems = {}, []
    for name, folder in folders().items():
        try:
            store = opened(folder)
        except LensError as error:
            problems.append(error)
            continue
        if store.summary().model_sha256 == routers.sha256:
            stores[name] = store
    return stores, problems


def name_of(summary: Summary) -> str:
    """A database in a few words, for the list of them."""
    return KINDS.get(summary.kind, "Features")
