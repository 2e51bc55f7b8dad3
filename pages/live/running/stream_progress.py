"""Runs of a streamed model: what they cost before they start, how far they are, and a way to stop.

A pass may take minutes, so a run goes on in a thread of its own: a click elsewhere on the page
does not lose it. What it gives is kept for its session, by what asked for it, when the page is
next drawn. A session has one run at a time; it ends when it is stopped, and some time after its
browser has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import streamlit as st

from grok.errors import BusyError, GrokError
from grok.serving.jobs import Job, Jobs, JobState
from lens.errors import LensError
from pages.live.running import stream_choice, stream_cost
from pages.live.running.stream_cost import Work
from pages.live.running.stream_run import Asked, Going, Run, Then
from pages.live.session import shared_models

ASKED = "stream_asked"  # the run that waits for its yes, of this session alone
RUNNING = "stream_running"  # the run that goes on
SAID = "stream_said"  # how the last one ended, until something else is done
DRAWN = "stream_drawn"  # whether this draw of the page has shown it
GROUP = "stream_group"  # stands for the session
EVERY = 0.5  # seconds between two looks at a run
DEFECT = "This run ended with a defect of the program. The server's log says where."
LONG = 600.0  # of a pass whose time is not known


@st.cache_resource(show_spinner=False)
def jobs() -> Jobs:
    """The streamed runs of this server; they wait for each other in the model's queue."""
    return Jobs(at_once=8, most=8, most_of_one=1).close_at_exit()


# --- asking and starting ----------------------------------------------------------------


def ask(
    choice: shared_models.ModelChoice,
    what: str,
    work: Callable[[], Work],
    run: Run,
    then: Then,
    draw: Callable[[], object] | None = None,
) -> None:
    """Remember a run with what it costs, to be started with a press; or show why it cannot be.

    Args:
        work: says what the run does; what it raises is shown.
        choice, what, run, then, draw: see `Asked`.
    """
    st.session_state.pop(SAID, None)
    st.session_state.pop(ASKED, None)
    try:
        cost = stream_cost.cost(choice, work())
    except (GrokError, LensError) as error:
        st.error(str(error), icon=":material/error:")
        return
    st.session_state[ASKED] = Asked(choice, what, cost, run, then, draw)


def ask_to_begin(
    choice: shared_models.ModelChoice,
    what: str,
    work: Callable[[], Work],
    begin: Callable[[], object],
) -> None:
    """`ask` for a run that `begin` starts elsewhere."""
    ask(choice, what, work, lambda going: None, lambda result: None)
    asked: Asked | None = st.session_state.get(ASKED)
    if asked is not None:
        st.session_state[ASKED] = replace(asked, begin=begin)


def button(
    choice: shared_models.ModelChoice,
    what: str,
    work: Work,
    key: str,
    run: Callable[[Callable[[int], object], Callable[[int, int], None]], Any],
    then: Then,
) -> None:
    """A button that says what a run costs and starts it; see `prompt_form.run_or_ask`."""
    try:
        cost = stream_cost.cost(choice, work)
    except GrokError as error:
        st.caption(str(error))
        return
    asked = Asked(choice, what, cost, lambda going: run(going.on_wait, going.on_load), then)
    running = st.session_state.get(RUNNING)
    if running is not None and running[0].asked.what == what:
        st.caption("It is under way; how far it is stands above.")
        return
    st.button(
        f"{what}: {cost.about}",
        key=key,
        icon=":material/layers:",
        on_click=start,
        args=(asked,),
        disabled=running is not None,
    )
    st.caption(stream_cost.cost_words(cost))


def start(asked: Asked) -> None:
    """Start a run; what refuses it is said when the page is drawn."""
    from grok.serving.shared_model import STREAMED

    state = st.session_state
    state.pop(SAID, None)
    STREAMED.expect_turn(asked.cost.a_pass or LONG)
    if asked.begin is not None:
        state.pop(ASKED, None)
        asked.begin()
        return
    if state.get(RUNNING) is not None:
        state[SAID] = ("error", "Another run of yours goes on. Wait for it, or stop it.")
        return
    going = Going(asked)
    try:
        job = jobs().start(object(), going, group=state.setdefault(GROUP, object()))
    except BusyError as error:
        state[SAID] = ("error", str(error))
        return
    state.pop(ASKED, None)
    state[RUNNING] = (going, job)


def _dismiss() -> None:
    st.session_state.pop(ASKED, None)


# --- what is shown ----------------------------------------------------------------------


def finish() -> None:
    """Keep what a run has given; every draw of the page calls this before anything is drawn."""
    state = st.session_state
    state[DRAWN] = False
    if state.get(RUNNING) is None:
        return
    going, job = state[RUNNING]
    ended: JobState = job.state
    if not ended.ended:
        return
    state[RUNNING] = None
    if ended.status == "done":
        going.asked.then(going.result)
        st.toast(f"{going.asked.what}: finished.", icon=":material/check:")
    elif ended.status == "cancelled":
        state[SAID] = ("info", going.stopped_words())
    elif isinstance(ended.error, GrokError | LensError):
        state[SAID] = ("error", str(ended.error))
    else:
        state[SAID] = ("error", DEFECT)


def board() -> None:
    """The run that was asked for, or the one that goes on, or how the last one ended.

    A mode calls it where its own runs begin, and the page at its end for all other cases.
    """
    state = st.session_state
    if state.get(DRAWN):
        return
    state[DRAWN] = True
    if state.get(RUNNING) is not None:
        _under_way(*state[RUNNING])
    asked: Asked | None = state.get(ASKED)
    if asked is not None:
        _before(asked, busy=state.get(RUNNING) is not None)
    if SAID in state:
        kind, words = state[SAID]
        if kind == "error":
            st.error(words, icon=":material/error:")
        else:
            st.info(words, icon=":material/stop_circle:")


def _before(asked: Asked, *, busy: bool) -> None:
    """What a run costs, and the button that starts it."""
    with st.container(border=True, key="stream_before"):
        st.markdown(f":material/timer: {stream_cost.cost_words(asked.cost)}")
        with suppress(GrokError):
            st.caption(stream_choice.rates_words(asked.choice))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                f"{asked.what}: {asked.cost.about}",
                type="primary",
                icon=":material/play_arrow:",
                key="stream_start",
                on_click=start,
                args=(asked,),
                disabled=busy,
                help="Stop the run above first." if busy else None,
            )
            st.button("Not now", key="stream_dismiss", on_click=_dismiss)


@st.fragment(run_every=EVERY)
def _under_way(going: Going, job: Job) -> None:
    """How far a run is, looked at again and again without the rest of the page."""
    state = job.state
    if state.ended:
        st.rerun()
    with st.container(border=True, key="stream_running"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{going.asked.what}**", width="stretch")
            st.button("Stop", key="stream_stop", icon=":material/stop_circle:", on_click=job.cancel)
        st.progress(going.fraction, going.words())
        if going.asked.draw is not None:
            going.asked.draw()
        st.caption("It goes on while you look at other pages, as long as this tab is open.")
