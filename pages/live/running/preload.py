"""The bundled model, made ready in the background while somebody still reads.

The first run of a server imports JAX, reads the model and compiles two programs, for the routing
and for the logit lens. All that begins when the first page has been drawn, once a server, for
prompts of up to `TOKENS` tokens; other lengths are compiled when they are run.
"""

from __future__ import annotations

import os
from contextlib import suppress

import numpy as np
import streamlit as st

from grok.errors import GrokError
from grok.serving.jobs import Job, Jobs
from pages.live.running import stream_choice
from pages.live.session import shared_models
from pages.shell import data_source

VARIABLE = "GROK_LENS_PRELOAD"
TOKENS = 64
KEY = "bundled"
STEPS = 3


@st.cache_resource(show_spinner=False)
def _jobs() -> Jobs:
    return Jobs(at_once=1, most=1).close_at_exit()


@st.cache_resource(show_spinner=False)
def _begun() -> list[Job]:
    """The job of this server, once it has been started."""
    return []


def begin() -> None:
    """Start it, unless it was before; nothing where another model comes first, or it is off.

    The variable GROK_LENS_PRELOAD is "off" where a server's memory is too small for a model that
    nobody may ask for.
    """
    begun = _begun()
    wanted = os.environ.get(VARIABLE, "").strip().lower() != "off"
    if begun or not wanted or data_source.configured().checkpoint or shared_models.elsewhere():
        return
    with suppress(GrokError):  # another session has just started it, or the mode is none there is
        if stream_choice.setting() != "streamed":
            begun.append(_jobs().start(KEY, make_ready))


def under_way() -> bool:
    """Whether the model is being made ready."""
    return _jobs().get(KEY) is not None


def make_ready(job: Job) -> None:
    """Load the bundled model and run it once, so that its programs are compiled."""
    choice = shared_models.model_choices()["bundled"]
    job.progress(0, STEPS)
    model = shared_models.shared(choice, "bfloat16", lambda done, total: job.check())
    job.progress(1, STEPS)
    tokens = np.arange(1, min(TOKENS, model.config.context_length) + 1)
    model.trace_all([tokens])
    job.progress(2, STEPS)
    model.logit_lens(tokens)
    job.progress(STEPS, STEPS)
