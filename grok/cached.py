"""The one grok file that imports streamlit: a model loaded once and shared by all sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from grok.checkpoints.model_files import folder_identity
from grok.config import BUNDLED_MODEL
from grok.serving.remote.client import RemoteModel
from grok.serving.shared_model import SharedModel

if TYPE_CHECKING:
    from grok.dictionaries.kinds.dictionary import Dictionary
    from grok.planning.modes import ModePlan

OnLoad = Callable[[int, int], None]


def shared_model(
    checkpoint: str | None = None,
    dtype: str = "bfloat16",
    mode: str = "resident",
    memory_budget: int | None = None,
    *,
    _progress: OnLoad | None = None,
) -> SharedModel:
    """The model of a checkpoint folder (the bundled one when None), loaded once for everyone.

    Two resident models are kept, and one streamed one: its buffers take most of its budget. A
    checkpoint whose files have changed since is another model, and loaded anew.

    Args:
        checkpoint: folder that holds `ckpt-0`.
        dtype: of activations.
        mode: "resident", or "streamed" from disk for every pass.
        memory_budget: bytes that a streamed model may take.
        _progress: called with (tensors read, tensors in all) by the session that loads.

    Raises:
        GrokError: as `grok.runner.loading.load`; a failed load is tried anew by the next call.
    """
    identity = folder_identity(BUNDLED_MODEL if checkpoint is None else checkpoint)
    if mode == "streamed":
        return _streamed(checkpoint, identity, dtype, memory_budget, _progress=_progress)
    return _resident(checkpoint, identity, dtype, mode, _progress=_progress)


@st.cache_resource(max_entries=4, ttl=60, show_spinner=False)
def remote_model(url: str, dtype: str | None = None) -> RemoteModel:
    """The model that a server holds; it is asked again every minute what it is.

    Raises:
        GrokError: it cannot be reached; the next call tries anew.
    """
    return RemoteModel(url, dtype=dtype)


@st.cache_data(max_entries=4, ttl=60, show_spinner=False)
def remote_plan(url: str, n_tokens: int) -> ModePlan:
    """What a pass over so many tokens takes at a server, by its own estimate.

    Raises:
        GrokError: it cannot be reached; the next call tries anew.
    """
    return remote_model(url).plan(n_tokens)


@st.cache_resource(max_entries=2, show_spinner=False)
def _resident(
    checkpoint: str | None, identity: str, dtype: str, mode: str, *, _progress: OnLoad | None
) -> SharedModel:
    from grok.runner.loading import load

    return SharedModel(load(checkpoint, mode=mode, dtype=dtype, progress=_progress))


@st.cache_resource(max_entries=1, show_spinner=False)
def _streamed(
    checkpoint: str | None,
    identity: str,
    dtype: str,
    memory_budget: int | None,
    *,
    _progress: OnLoad | None,
) -> SharedModel:
    from grok.runner.loading import load

    return SharedModel(
        load(
            checkpoint,
            mode="streamed",
            memory_budget=memory_budget,
            dtype=dtype,
            progress=_progress,
        )
    )


def shared_dictionary(folder: str) -> Dictionary:
    """The dictionary of a folder, read once for everyone, and anew when its files have changed.

    Raises:
        GrokError: as `load_dictionary`; the next call tries anew.
    """
    return _dictionary(folder, folder_identity(folder))


@st.cache_resource(max_entries=4, show_spinner=False)
def _dictionary(folder: str, identity: str) -> Dictionary:
    from grok.dictionaries.kinds.files import load_dictionary

    return load_dictionary(folder)
