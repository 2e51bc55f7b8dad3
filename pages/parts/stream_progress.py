"""Runs of a streamed model: what they cost before they start, how far they are, and a way to stop.

A pass may take minutes, so a run goes on in a thread of its own: a click elsewhere on the page
does not lose it. What it gives is kept for its session, by what asked for it, when the page is
next drawn. A session has one run at a time; it ends when it is stopped, and some time after its
browser has gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st
from streamlit.runtime import Runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from grok.errors import BusyError, GrokError
from grok.jobs import CancelledError, Job, Jobs, JobState
from grok.planning import duration, size
from grok.progress import PassProgress, watching
from lens.errors import LensError
from pages.parts import stream_choice, stream_cost, traces
from pages.parts.stream_cost import Cost, Work

ASKED = "stream_asked"  # the run that waits for its yes, of this session alone
RUNNING = "stream_running"  # the run that goes on
SAID = "stream_said"  # how the last one ended, until something else is done
GROUP = "stream_group"  # stands for the session
EVERY = 0.5  # seconds between two looks at a run
DEFECT = "This run ended with a defect of the program. The server's log says where."
# Seconds that a run goes on without a browser: a reload or a lost connection is shorter.
ALONE = 120.0
LONG = 600.0  # of a pass whose time is not known

Run = Callable[["Going"], Any]
Then = Callable[[Any], object]


@dataclass(frozen=True, eq=False)
class Asked:
    """A run that was asked for.

    Attributes:
        choice: the model.
        what: what it does, for its button: "Trace this prompt".
        cost: an estimate.
        run: does it, in a thread of its own, where nothing can be drawn.
        then: keeps what it gave, in the session.
        draw: shows what there is so far, if anything.
        begin: starts it where it does not run here.
    """

    choice: traces.ModelChoice
    what: str
    cost: Cost
    run: Run
    then: Then
    draw: Callable[[], object] | None = None
    begin: Callable[[], object] | None = None


class Going:
    """A run under way: told by its thread, looked at by the page.

    Attributes:
        asked: what it is.
        passes: that are over; last: how far the pass under way is.
        ahead: others who come first, 0 when it is its turn.
        loaded: tensors of the model that are read, and in all.
        result: what it gave.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.passes, self.ahead = 0, 0
        self.last: PassProgress | None = None
        self.share: tuple[float, float] | None = None  # of a sweep, and seconds since it began
        self.loaded: tuple[int, int] | None = None
        self.result: Any = None
        self._began = time.monotonic()
        self._read_before = self._seconds_before = 0.0
        self._session = _session()
        self._seen = time.monotonic()
        self._swept: float | None = None
        self.job: Job | None = None

    # told by the thread

    def __call__(self, job: Job) -> None:
        """The work of the job."""
        self.job = job
        with watching(self.on_pass):
            self.result = self.asked.run(self)

    def on_wait(self, ahead: int) -> None:
        self.ahead = ahead
        self.check()

    def on_load(self, done: int, total: int) -> None:
        self.loaded = None if done >= total else (done, total)
        self.check()

    def on_pass(self, now: PassProgress) -> None:
        """Raises:
        CancelledError: somebody stopped it.
        """
        before = self.last
        if before is not None and now.fraction < before.fraction:
            self.passes += 1
            self._read_before += before.bytes_read
            self._seconds_before += before.seconds
        self.ahead, self.loaded, self.last = 0, None, now
        self.check()

    def on_share(self, done: int, total: int) -> None:
        """How far a sweep is, whose runs go through the layers together."""
        if self._swept is None:
            self._swept = time.monotonic()
        self.share = (done / max(total, 1), time.monotonic() - self._swept)
        self.check()

    def check(self) -> None:
        """Raises:
        CancelledError: somebody stopped it, or nobody is there any more.
        """
        if self.job is not None:
            self.job.check()
        now = time.monotonic()
        if _present(self._session):
            self._seen = now
        elif now - self._seen > ALONE:
            raise CancelledError("This was stopped: its browser has gone.")

    # looked at by the page

    @property
    def fraction(self) -> float:
        """Share of the run that is done."""
        if self.share is not None:
            return min(self.share[0], 1.0)
        if self.last is None:
            return 0.0
        passes = max(self.asked.cost.work.n_passes, self.passes + 1)
        return min((self.passes + self.last.fraction) / passes, 1.0)

    @property
    def bytes_read(self) -> float:
        return self._read_before + (0 if self.last is None else self.last.bytes_read)

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; before there is one, by the estimate, if there is one."""
        last, cost = self.last, self.asked.cost
        if self.share is not None and self.share[0] > 0.01:
            share, seconds = self.share
            return seconds / share * (1 - share)
        if last is None:
            return cost.seconds
        own = last.seconds_left
        if own is None:
            own = None if cost.a_pass is None else max(cost.a_pass - last.seconds, 0.0)
        rest = max(cost.work.n_passes - self.passes - 1, 0)
        if own is None or not rest:
            return own
        if self.passes:
            return own + rest * self._seconds_before / self.passes
        if cost.seconds is None or cost.a_pass is None:
            return None
        return own + rest * (cost.seconds - cost.a_pass) / (cost.work.n_passes - 1)

    def words(self) -> str:
        """How far it is, in a line."""
        if self.ahead:
            word = "run" if self.ahead == 1 else "runs"
            turns = stream_choice.about(self.ahead * _a_turn())
            return f"In the queue at place {self.ahead}: {self.ahead} {word} ahead, {turns}"
        if self.loaded is not None:
            return f"Opening the model: {self.loaded[0]} of {self.loaded[1]} tensors"
        last = self.last
        if last is None and self.share is None:
            return "Starting …"
        parts = []
        work = self.asked.cost.work
        if self.share is not None:
            parts.append(f"Sweep {self.share[0]:.0%}")
        elif work.n_passes > 1:
            unit = "Token" if work.new_tokens else "Pass"
            parts.append(f"{unit} {min(self.passes + 1, work.n_passes)} of {work.n_passes:,}")
        if last is not None:
            parts.append(layer_words(last))
        left = self.seconds_left
        if left is not None:
            parts.append(f"{duration(max(left, 1.0))} left")
        parts.append(f"{size(self.bytes_read)} read")
        return " · ".join(parts)

    def stopped_words(self) -> str:
        """What was done of a run that was stopped."""
        if self.last is None:
            return "Stopped before it began."
        return (
            f"Stopped after layer {self.last.layer} of {self.last.n_layers}, with "
            f"{size(self.bytes_read)} read. The model is free for the next run."
        )


def layer_words(now: PassProgress) -> str:
    """The layer that a pass is in."""
    return f"Layer {min(now.layer + 1, now.n_layers)} of {now.n_layers}"


def pass_words(now: PassProgress) -> str:
    """How far one pass is, in a line."""
    left = "" if now.seconds_left is None else f" · {duration(max(now.seconds_left, 1))} left"
    return f"{layer_words(now)}{left} · {size(now.bytes_read)} read"


def _a_turn() -> float:
    from grok.cached import STREAMED

    return STREAMED.a_turn


def _session() -> str | None:
    context = get_script_run_ctx()
    return None if context is None else context.session_id


def _present(session: str | None) -> bool:
    """Whether a session's browser is connected; True where that cannot be known."""
    if session is None or not Runtime.exists():
        return True
    return bool(Runtime.instance().is_active_session(session))


@st.cache_resource(show_spinner=False)
def jobs() -> Jobs:
    """The streamed runs of this server; they wait for each other in the model's queue."""
    return Jobs(at_once=8, most=8, most_of_one=1)


# --- asking and starting ----------------------------------------------------------------


def ask(
    choice: traces.ModelChoice,
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
    choice: traces.ModelChoice, what: str, work: Callable[[], Work], begin: Callable[[], object]
) -> None:
    """`ask` for a run that `begin` starts elsewhere."""
    ask(choice, what, work, lambda going: None, lambda result: None)
    asked: Asked | None = st.session_state.get(ASKED)
    if asked is not None:
        st.session_state[ASKED] = replace(asked, begin=begin)


def button(
    choice: traces.ModelChoice,
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
    from grok.cached import STREAMED

    state = st.session_state
    state.pop(ASKED, None)
    state.pop(SAID, None)
    others = STREAMED.a_turn if STREAMED.in_line else 0.0
    STREAMED.a_turn = max(others, asked.cost.a_pass or LONG)
    if asked.begin is not None:
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
    state[RUNNING] = (going, job)


def _dismiss() -> None:
    st.session_state.pop(ASKED, None)


# --- what is shown ----------------------------------------------------------------------


def finish() -> None:
    """Keep what a run has given; every draw of the page calls this before anything is drawn."""
    state = st.session_state
    if state.get(RUNNING) is None:
        return
    going, job = state[RUNNING]
    ended: JobState = job.state
    if not ended.ended:
        return
    state[RUNNING] = None
    if ended.status == "done":
        going.asked.then(going.result)
    elif ended.status == "cancelled":
        state[SAID] = ("info", going.stopped_words())
    elif isinstance(ended.error, GrokError | LensError):
        state[SAID] = ("error", str(ended.error))
    else:
        state[SAID] = ("error", DEFECT)


def board() -> None:
    """The run that was asked for, or the one that goes on, or how the last one ended."""
    state = st.session_state
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
