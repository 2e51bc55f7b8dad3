"""A continuation under way in one session: what it has made so far, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from pages.live.session import kept_traces
from pages.shell import links

RUNNING = "generation_running"  # the run under way, of this session alone
DONE = "generation_done"
PATIENCE = 10.0  # seconds for a token of a slow model


@dataclass
class Going:
    """A run under way.

    Attributes:
        model: that it runs on, once it is loaded; options, prompt: of its `stream`.
        steps: made so far.
        before: the trace that it will replace.
        cancelled: set by who wants it to end; ended: set when it has.
    """

    model: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    steps: list[Any] = field(default_factory=list)
    before: Any = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    prompt: Any = None

    def coming(self, on_wait: Callable[[int], object]) -> Any:
        """The tokens as they are made."""
        return self.model.stream(self.prompt, on_wait=on_wait, **self.options)


def finish() -> None:
    """Keep what a run has made as a trace of this session, and end it if it still goes on.

    A click starts the page anew in another thread, at once; the run that it cuts short learns
    of it when it next draws. So it is told, and given time to hand over its last token. All
    modes that show the session's trace call this first.
    """
    going: Going | None = st.session_state.pop(RUNNING, None)
    if going is None:
        return
    going.cancelled.set()
    if not going.steps or kept_traces.kept().get("first") is not going.before:
        return  # nothing made yet, or something newer since
    going.ended.wait(PATIENCE)
    keep(going)


def keep(going: Going) -> None:
    """Keep what was made as the trace of this session."""
    model, steps = going.model, list(going.steps)
    made = model.model.collect(steps, going.options)
    kept_traces.keep("first", made.trace)
    st.session_state["trace_shown"] = "first"
    links.forget("token")
    asked = going.options["max_new_tokens"]
    ended = steps[-1].token == model.model.config.eos_token
    st.session_state[DONE] = {
        "trace": made.trace,
        "text": made.text,
        "last": str(steps[-1].piece),
        "tokens": len(steps),
        "asked": asked,
        "why": "end" if ended else "length" if len(steps) == asked else "stopped",
    }
