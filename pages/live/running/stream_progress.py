"""Runs of a streamed model: their cost before they start, their progress, and a way to stop.

A pass may take minutes, so a run goes on in a thread of its own: a click elsewhere on the page
does not lose it. What it gives is kept for its session, by what asked for it, when the page is
next drawn. A session has one run at a time; it ends when it is stopped, and some time after its
browser has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import streamlit as st

from grok.errors import GrokError
from grok.serving.jobs import Job, Jobs
from lens.errors import LensError
from lens.escaping import as_markdown
from pages.access.messages import told
from pages.live.running import stream_choice, stream_cost
from pages.live.running.stream_cost import Work
from pages.live.running.stream_run import RunRequest, StreamedRun
from pages.live.session.shared_models import ModelChoice, OnLoad, OnWait, check_may_run
from pages.shell import parts
from pages.shell.session_keys import SessionKey, SessionValue

Result = TypeVar("Result")
REQUEST = SessionValue[RunRequest[Any]](SessionKey.STREAM_REQUEST)
RUNNING = SessionValue[tuple[StreamedRun[Any], Job]](SessionKey.STREAM_RUN)
MESSAGE = SessionValue[tuple[str, str]](SessionKey.STREAM_MESSAGE)
DRAWN = SessionValue[bool](SessionKey.STREAM_DRAWN)
GROUP = SessionValue[object](SessionKey.STREAM_GROUP)
EVERY = 0.5  # seconds between two drawings of a run
DEFECT = "This run ended with a defect of the program. The server's log says where."
LONG = 600.0  # of a pass whose time is not known


@st.cache_resource(show_spinner=False)
def jobs() -> Jobs:
    """The streamed runs of this server; they wait for each other in the model's queue."""
    return Jobs(at_once=8, most=8, most_of_one=1).close_at_exit()


# --- asking and starting ----------------------------------------------------------------


def ask(
    choice: ModelChoice,
    what: str,
    work: Callable[[], Work],
    run: Callable[[StreamedRun[Result]], Result],
    then: Callable[[Result], object],
    draw: Callable[[], object] | None = None,
) -> None:
    """Remember a run with what it costs, to be started with a press; or show why it cannot be.

    Args:
        work: says what the run does; what it raises is shown.
        choice, what, run, then, draw: see `RunRequest`.
    """
    MESSAGE.drop()
    REQUEST.drop()
    try:
        cost = stream_cost.cost(choice, work())
    except (GrokError, LensError) as error:
        st.error(told(error), icon=":material/error:")
        return
    REQUEST.set(RunRequest(choice, what, cost, run, then, draw))


def ask_to_begin(
    choice: ModelChoice,
    what: str,
    work: Callable[[], Work],
    begin: Callable[[], object],
) -> None:
    """`ask` for a run that `begin` starts elsewhere."""
    ask(choice, what, work, lambda current: None, lambda result: None)
    request = REQUEST.get()
    if request is not None:
        REQUEST.set(replace(request, begin=begin))


def button(
    choice: ModelChoice,
    what: str,
    work: Work,
    key: str,
    run: Callable[[OnWait, OnLoad], Result],
    then: Callable[[Result], object],
) -> None:
    """A button that says what a run costs and starts it; see `prompt_form.run_or_ask`."""
    try:
        cost = stream_cost.cost(choice, work)
    except GrokError as error:
        st.caption(told(error))
        return
    request = RunRequest(
        choice, what, cost, lambda current: run(current.on_wait, current.on_load), then
    )
    running = RUNNING.get()
    if running is not None and running[0].request.what == what:
        st.caption("It is under way; how far it is stands above.")
        return
    st.button(
        f"{what}: {cost.about}",
        key=key,
        icon=":material/layers:",
        on_click=start,
        args=(request,),
        disabled=running is not None,
    )
    st.caption(stream_cost.cost_words(cost))


def start(request: RunRequest[Any]) -> None:
    """Start a run; what refuses it is said when the page is drawn."""
    from grok.serving.shared_model import STREAMED

    MESSAGE.drop()
    STREAMED.expect_turn(request.cost.a_pass or LONG)
    if request.begin is not None:
        REQUEST.drop()
        request.begin()
        return
    if RUNNING.get() is not None:
        MESSAGE.set(("error", "Another run of yours goes on. Wait for it, or stop it."))
        return
    run = StreamedRun(request)
    try:
        check_may_run(request.choice)
        job = jobs().start(object(), run, group=GROUP.kept(object))
    except GrokError as error:
        MESSAGE.set(("error", str(error)))
        return
    REQUEST.drop()
    RUNNING.set((run, job))


# --- what is shown ----------------------------------------------------------------------


def finish() -> None:
    """Keep what a run has given; every draw of the page calls this before anything is drawn."""
    DRAWN.set(False)
    running = RUNNING.get()
    if running is None:
        return
    run, job = running
    run.watched_here()
    state = job.state
    if not state.ended:
        return
    RUNNING.drop()
    if state.status == "done":
        run.request.then(run.result)
        st.toast(f"{run.request.what}: finished.", icon=":material/check:")
    elif state.status == "cancelled":
        MESSAGE.set(("info", run.stopped_words()))
    elif isinstance(state.error, GrokError | LensError):
        MESSAGE.set(("error", str(state.error)))
    else:
        MESSAGE.set(("error", DEFECT))


def board() -> None:
    """The run that was asked for, or the one that goes on, or how the last one ended.

    A mode calls it where its own runs begin, and the page at its end for all other cases.
    """
    if DRAWN.get():
        return
    DRAWN.set(True)
    running, request, message = RUNNING.get(), REQUEST.get(), MESSAGE.get()
    if running is not None:
        _under_way(*running)
    if request is not None:
        _before(request, busy=running is not None)
    if message is not None:
        kind, words = message
        if kind == "error":
            st.error(told(words), icon=":material/error:")
        else:
            st.info(as_markdown(words), icon=":material/stop_circle:")


def _before(request: RunRequest[Any], *, busy: bool) -> None:
    """Cost of a run, and the button that starts it."""
    with st.container(border=True, key="stream_before"):
        st.markdown(f":material/timer: {stream_cost.cost_words(request.cost)}")
        with suppress(GrokError):
            st.caption(stream_choice.rates_words(request.choice))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                f"{request.what}: {request.cost.about}",
                type="primary",
                icon=":material/play_arrow:",
                key="stream_start",
                on_click=start,
                args=(request,),
                disabled=busy,
                help="Stop the run above first." if busy else None,
            )
            st.button("Not now", key="stream_dismiss", on_click=REQUEST.drop)


@parts.part(run_every=EVERY)
def _under_way(run: StreamedRun[Any], job: Job) -> None:
    """Progress of a run, drawn again and again without the rest of the page."""
    state = job.state
    if state.ended:
        st.rerun()
    with st.container(border=True, key="stream_running"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{run.request.what}**", width="stretch")
            st.button(
                "Stopping…" if job.stopping else "Stop",
                key="stream_stop",
                icon=":material/stop_circle:",
                on_click=job.cancel,
                disabled=job.stopping,
                help="It ends with the layer that is read." if job.stopping else None,
            )
        st.progress(run.fraction, run.words())
        if run.request.draw is not None:
            run.request.draw()
        st.caption("It goes on while you look at other pages, as long as this tab is open.")
