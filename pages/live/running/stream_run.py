"""One run of a streamed model: its request, and how far it is.

It is told by the thread that works, and looked at by the page; what a thread is told is small
and replaced as a whole, so neither waits for the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from streamlit.runtime import Runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from grok.engine.progress import PassProgress, watching
from grok.serving.jobs import CancelledError, Job
from grok.serving.queue import Waiting
from grok.units import duration, size
from lens.words import percent
from pages.live.running import stream_choice
from pages.live.running.stream_cost import Cost
from pages.live.session.shared_models import ModelChoice

# Seconds that a run goes on without a browser: a reload or a lost connection is shorter.
ALONE = 120.0
NOT_WAITING = Waiting(0, 0.0)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class RunRequest(Generic[Result]):
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

    choice: ModelChoice
    what: str
    cost: Cost
    run: Callable[[StreamedRun[Result]], Result]
    then: Callable[[Result], object]
    draw: Callable[[], object] | None = None
    begin: Callable[[], object] | None = None


class StreamedRun(Generic[Result]):
    """A run under way: told by its thread, looked at by the page.

    Attributes:
        request: the run that was asked for.
        passes: that are over.
        last: how far the pass under way is.
        waiting: who comes first, and for how long.
        loaded: tensors of the model that are read, and in all.
        result: what it gave.
    """

    def __init__(self, request: RunRequest[Result]) -> None:
        self.request = request
        self.passes, self.waiting = 0, NOT_WAITING
        self.last: PassProgress | None = None
        self.share: tuple[float, float] | None = None  # of a sweep, and seconds since it began
        self.loaded: tuple[int, int] | None = None
        self.result: Result | None = None
        self._began = time.monotonic()
        self._read_before = self._seconds_before = 0.0
        self._session = _session()
        self._seen = time.monotonic()
        self._swept: float | None = None
        self._told = time.monotonic()
        self.job: Job | None = None

    # told by the thread

    def __call__(self, job: Job) -> None:
        """The work of the job."""
        self.job = job
        with watching(self.on_pass):
            self.result = self.request.run(self)

    def on_wait(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.check()

    def on_load(self, done: int, total: int) -> None:
        self.loaded = None if done >= total else (done, total)
        self.check()

    def on_pass(self, now: PassProgress) -> None:
        """Take in how far the pass under way is.

        Raises:
            CancelledError: somebody stopped it.
        """
        before = self.last
        if before is not None and now.fraction < before.fraction:
            self.passes += 1
            self._read_before += before.bytes_read
            self._seconds_before += before.seconds
        self.waiting, self.loaded, self.last = NOT_WAITING, None, now
        self._told = time.monotonic()
        self.check()

    def on_share(self, done: int, total: int) -> None:
        """Take in how far a sweep is, whose runs go through the layers together."""
        if self._swept is None:
            self._swept = time.monotonic()
        self.share = (done / max(total, 1), time.monotonic() - self._swept)
        self.check()

    def watched_here(self) -> None:
        """Take the session that draws now for the run's own: a reload is another one."""
        self._session = _session()

    def check(self) -> None:
        """End the run where it should end.

        Raises:
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
        passes = max(self.request.cost.work.n_passes, self.passes + 1)
        return min((self.passes + self.last.fraction) / passes, 1.0)

    @property
    def bytes_read(self) -> float:
        return self._read_before + (0 if self.last is None else self.last.bytes_read)

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; before there is one, by the estimate, if there is one."""
        last, cost = self.last, self.request.cost
        if self.share is not None and self.share[0] > 0.01:
            share, seconds = self.share
            return seconds / share * (1 - share)
        if last is None:
            return cost.seconds
        own = last.seconds_left
        if own is None and cost.a_pass is not None:
            own = cost.a_pass - last.seconds
        if own is not None:  # it goes on between two tellings
            own = max(own - (time.monotonic() - self._told), 0.0)
        rest = max(cost.work.n_passes - self.passes - 1, 0)
        if own is None or not rest:
            return own
        if self.passes:
            return own + rest * self._seconds_before / self.passes
        if cost.seconds is None or cost.a_pass is None:
            return None
        return own + rest * (cost.seconds - cost.a_pass) / (cost.work.n_passes - 1)

    def words(self) -> str:
        """Progress of the run, in a line."""
        place, seconds = self.waiting
        if place:
            word = "run" if place == 1 else "runs"
            turns = stream_choice.about(seconds)
            return f"In the queue at place {place}: {place} {word} ahead, {turns}"
        if self.loaded is not None:
            return f"Opening the model: {self.loaded[0]} of {self.loaded[1]} tensors"
        last = self.last
        if last is None and self.share is None:
            return "Starting …"
        parts = []
        work = self.request.cost.work
        if self.share is not None:
            parts.append(f"Sweep {percent(self.share[0])}")
        elif work.n_passes > 1:
            unit = "Token" if work.new_tokens else "Pass"
            parts.append(f"{unit} {min(self.passes + 1, work.n_passes)} of {work.n_passes:,}")
        if last is not None:
            parts.append(layer_words(last))
        left = self.seconds_left
        if left is not None:
            parts.append(left_words(left))
        parts.append(f"{size(self.bytes_read)} read")
        return " · ".join(parts)

    def stopped_words(self) -> str:
        """Layer and bytes at which a run was stopped, in words."""
        if self.last is None:
            return "Stopped before it began."
        return (
            f"Stopped after layer {self.last.layer} of {self.last.n_layers}, with "
            f"{size(self.bytes_read)} read. The model is free for the next run."
        )


def layer_words(now: PassProgress) -> str:
    """The layer that a pass is in, or what comes after the last."""
    if now.layer >= now.n_layers:
        return f"All {now.n_layers} layers, now the next tokens"
    return f"Layer {min(now.layer + 1, now.n_layers)} of {now.n_layers}"


def left_words(seconds: float) -> str:
    """A time left, in whole seconds where there are few."""
    return f"{duration(seconds) if seconds >= 10 else f'{max(round(seconds), 1)} s'} left"


def pass_words(now: PassProgress) -> str:
    """Progress of one pass, in a line."""
    left = "" if now.seconds_left is None else f" · {left_words(now.seconds_left)}"
    return f"{layer_words(now)}{left} · {size(now.bytes_read)} read"


def _session() -> str | None:
    context = get_script_run_ctx()
    return None if context is None else context.session_id


def _present(session: str | None) -> bool:
    """True where a session's browser is connected, or where that cannot be known."""
    if session is None or not Runtime.exists():
        return True
    return bool(Runtime.instance().is_active_session(session))
