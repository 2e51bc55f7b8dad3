"""Background work with progress and a way to end it.

A job is a function in a thread of its own. Jobs take turns: a few run, the next ones wait,
one more is refused. Nobody can end a thread from outside, so a job ends where it tells its
progress.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import Context
from dataclasses import dataclass

from grok.errors import BusyError, GrokError
from grok.serving import logs
from grok.serving.queue import NOBODY, Caller, FairQueue

LOG = logging.getLogger(__name__)
PATIENCE = 15.0  # seconds that jobs may take to end with the program
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


class CancelledError(GrokError):
    """The job was asked to end; raised inside it where it tells its progress."""


@dataclass(frozen=True)
class JobState:
    """The state of a job at one moment.

    Attributes:
        status: waiting, running, done, failed or cancelled.
        done, total: work so far and in all, in units of the job's own; 0 until known.
        n_before: jobs that come first, while it waits.
        error: the exception that ended it.
    """

    status: str
    done: int = 0
    total: int = 0
    n_before: int = 0
    error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.status in (DONE, FAILED, CANCELLED)


class Job:
    """A function that runs in the background; made by `Jobs.start`.

    Attributes:
        detail: anything else that the function tells, for whoever shows the job.
    """

    def __init__(self, jobs: Jobs, group: Hashable) -> None:
        self.group = group
        self.detail: object = None
        self._jobs = jobs
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._status, self._done, self._total = WAITING, 0, 0
        self._error: BaseException | None = None

    @property
    def state(self) -> JobState:
        """The state now."""
        return JobState(
            self._status, self._done, self._total, self._jobs.n_before(self), self._error
        )

    def progress(self, done: int, total: int) -> None:
        """Tells how far the function is; the function calls it.

        Raises:
            CancelledError: it is asked to end.
        """
        self._done, self._total = done, total
        self.check()

    def check(self) -> None:
        """Ends the job where it is asked to end; the function calls it between two `progress`.

        Raises:
            CancelledError: it is asked to end.
        """
        if self._stop.is_set():
            raise CancelledError("This was cancelled.")

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set()

    def cancel(self) -> None:
        """Ask it to end: at once where it waits, else where it next tells its progress."""
        self._stop.set()
        self._jobs._wake()

    def wait(self, timeout: float | None = None) -> JobState:
        """The state when the job has ended, or after so many seconds."""
        self._ended.wait(timeout)
        return self.state

    def _end(self, status: str, error: BaseException | None = None) -> None:
        self._error, self._status = error, status


class Jobs:
    """The jobs of a process.

    Args:
        at_once: jobs that run.
        most: jobs that run or wait.
        most_of_one: of one group, such as a person.

    Attributes:
        closing: True when the program is ending, so that no more work is begun.
    """

    def __init__(self, at_once: int = 2, most: int = 16, most_of_one: int = 3) -> None:
        self.at_once, self.most, self.most_of_one = at_once, most, most_of_one
        self._moved = threading.Condition()
        self._jobs: dict[Hashable, Job] = {}  # running or waiting, in the order they came
        self._running = 0
        self.closing = False

    def close_at_exit(self) -> Jobs:
        """Has `close` called when the program ends; returns itself."""
        atexit.register(self.close)
        return self

    def start(
        self,
        key: Hashable,
        work: Callable[[Job], object],
        *,
        group: Hashable = None,
        ended: Callable[[JobState], object] | None = None,
    ) -> Job:
        """Begin work in the background.

        Args:
            key: to find it by; two jobs under one key are not run at once.
            work: is given its job, to tell progress to.
            group: whose it is.
            ended: told how it ended, in the job's thread, whatever happened; also where it
                was cancelled before its turn.

        Raises:
            BusyError: too many run or wait, of all or of this group, or one under this key.
        """
        job = Job(self, group)
        with self._moved:
            own = sum(one.group == group for one in self._jobs.values())
            if self.closing:
                raise BusyError("The program is ending. Try again when it is back.")
            if key in self._jobs:
                raise BusyError("This runs already. Wait for it, or cancel it.")
            if len(self._jobs) >= self.most:
                raise BusyError(f"{len(self._jobs)} runs go on or wait already. Try again later.")
            if group is not None and own >= self.most_of_one:
                raise BusyError(
                    f"{own} of your runs go on or wait already. Wait for one, or cancel it."
                )
            self._jobs[key] = job
        context = Context()
        context.run(logs.REQUEST.set, logs.current())
        thread = threading.Thread(
            target=context.run,
            args=(self._run, key, job, work, ended),
            name="grok-job",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads on this machine
            with self._moved:
                del self._jobs[key]
            raise BusyError("This machine cannot start more work now. Try again later.") from error
        return job

    def close(self, patience: float = PATIENCE) -> None:
        """Cancel all and wait until they have ended, as the program does when it ends.

        A thread that is inside native code when the interpreter goes would take it down.
        """
        with self._moved:
            self.closing = True
            left = list(self._jobs.values())
        until = time.monotonic() + patience
        for job in left:
            job.cancel()
        for job in left:
            job.wait(max(0.0, until - time.monotonic()))

    def get(self, key: Hashable) -> Job | None:
        """The job that runs or waits under this key."""
        with self._moved:
            return self._jobs.get(key)

    def under_way(self) -> dict[Hashable, Job]:
        """The jobs that run or wait, by their keys, in the order they came."""
        with self._moved:
            return dict(self._jobs)

    def _run(
        self,
        key: Hashable,
        job: Job,
        work: Callable[[Job], object],
        ended: Callable[[JobState], object] | None,
    ) -> None:
        try:
            self._take_turn(job)
            try:
                work(job)
            finally:
                with self._moved:
                    self._running -= 1
            job._end(DONE)
        except CancelledError:
            job._end(CANCELLED)
        except GrokError as error:
            job._end(FAILED, error)
        except BaseException as error:
            # Its text may hold what people typed; the type and the line are enough.
            LOG.error("A job failed: %s at %s", type(error).__name__, _raised_at(error))
            job._end(FAILED, error)
        finally:
            try:
                if ended is not None:
                    ended(job.state)
            except Exception as error:
                LOG.error("After a job: %s at %s", type(error).__name__, _raised_at(error))
            with self._moved:
                del self._jobs[key]
                self._moved.notify_all()
            job._ended.set()

    def _take_turn(self, job: Job) -> None:
        with self._moved:
            while True:
                job.check()
                waiting = [one for one in self._jobs.values() if one._status == WAITING]
                if self._running < self.at_once and waiting[0] is job:
                    break
                self._moved.wait()
            self._running += 1
            job._status = RUNNING
            self._moved.notify_all()

    def n_before(self, job: Job) -> int:
        """Jobs whose turn comes before this one; 0 where it does not wait."""
        with self._moved:
            if job._status != WAITING:
                return 0
            others = list(self._jobs.values())
            return others.index(job) if job in others else 0

    def _wake(self) -> None:
        with self._moved:
            self._moved.notify_all()


@contextmanager
def patient_turn(
    queue: FairQueue, check: Callable[[], object], *, caller: Caller = NOBODY, pause: float = 0.5
) -> Iterator[None]:
    """A turn in a queue, asked for again while the queue is full or slow.

    Args:
        queue: the queue, which others use too.
        check: called before each attempt and while it waits; ends the wait by raising.
        caller: who asks.
        pause: seconds between attempts.
    """
    with ExitStack() as stack:
        while True:
            check()
            try:
                stack.enter_context(queue.turn(lambda waiting: check(), caller=caller))
                break
            except BusyError:
                time.sleep(pause)
        yield


def _raised_at(error: BaseException) -> str:
    """File and line where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown line"
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
