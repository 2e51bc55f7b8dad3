"""Runs of the model's server: each in a thread, which tells events to whoever sends the answer.

A run ends early when its client has gone, when it is cancelled by its id, or when nobody takes
what it tells.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as NotTakenError
from typing import TYPE_CHECKING, Any

from grok.engine.progress import PassProgress, watching
from grok.errors import BusyError, CheckpointError, DeviceError, GrokError
from grok.serving import metrics
from grok.serving.jobs import CancelledError
from grok.serving.logs import REQUEST
from grok.serving.queue import Waiting
from grok.serving.remote.bodies import BodyError, Told
from grok.serving.remote.wire import packed

if TYPE_CHECKING:
    from grok.runner.results import Step

LOG = logging.getLogger("grok_lens.model")
Event = Mapping[str, Any]
HELD = 64  # events that wait to be sent
STALLED = 60.0  # seconds for which a client may take nothing
PROGRESS_EVERY = 0.1  # seconds between two progress events
CANCELLED = 499  # nobody reads it

# Kind of error -> status, what was expected, what to do.
KNOWN: Mapping[type[GrokError], tuple[int, str, str]] = {
    BodyError: (400, "", "Look at /openapi.json for what this call takes."),
    BusyError: (503, "a turn at the model", "Send it again after the seconds in retry_after."),
    DeviceError: (507, "a run that the devices hold", "Ask for less at once."),
    CheckpointError: (500, "weights that can be read", "Tell whoever runs this server."),
    CancelledError: (CANCELLED, "", ""),
    GrokError: (400, "what this model can run", "Change what the message names."),
}


class Run:
    """One run under way.

    Args:
        work: is given what it tells to; gives the result.
        name: of the call.
    """

    def __init__(self, work: Callable[[Told], Any], name: str) -> None:
        self.name = name
        self._work = work
        self._cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue(HELD)
        self._told = 0.0

    def start(self) -> None:
        """Begin it, in a thread.

        Raises:
            BusyError: this machine has no more threads.
        """
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._run,), name="grok-run", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            text = "This machine cannot start more work now. Try again in about 5 seconds."
            raise BusyError(text, retry_after=5) from error

    def cancel(self) -> None:
        """Have it end where it next tells something."""
        self._cancelled.set()

    async def next(self, seconds: float) -> Event | None:
        """The next event; None where there is none for so long."""
        try:
            return await asyncio.wait_for(self._events.get(), seconds)
        except TimeoutError:
            return None

    # in the thread

    def _run(self) -> None:
        began = time.monotonic()
        told = Told(self._waiting, self._progress, self._layers, self._step)
        with metrics.RUNNING.track_inprogress():
            try:
                with watching(self._layers):
                    last = {"event": "result", "npz": packed(self._work(told))}
                status = 200
            except BaseException as error:
                said = described(error, f"POST /v1/{self.name}")
                last, status = {"event": "error", **said}, int(said["status"])
        note(self.name, status, time.monotonic() - began)
        try:
            self._tell(last, checked=False)
        except CancelledError:
            pass

    def _tell(self, event: Event, *, checked: bool = True) -> None:
        if checked and self._cancelled.is_set():
            raise CancelledError("This was cancelled.")
        try:
            put = asyncio.run_coroutine_threadsafe(self._events.put(event), self._loop)
            put.result(STALLED)
        except (NotTakenError, RuntimeError) as error:  # nobody reads, or the server ends
            self.cancel()
            raise CancelledError("This was cancelled: nobody takes its answer.") from error

    def _waiting(self, waiting: Waiting) -> None:
        self._tell({"event": "waiting", **waiting._asdict()})

    def _progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._told >= PROGRESS_EVERY:
            self._told = now
            self._tell({"event": "progress", "done": done, "total": total})
        elif self._cancelled.is_set():
            raise CancelledError("This was cancelled.")

    def _layers(self, now: PassProgress) -> None:
        self._tell({"event": "layers", **vars(now)})

    def _step(self, step: Step) -> None:
        told = {"token": step.token, "piece": step.piece, "npz": packed(step)}
        self._tell({"event": "step", **told})


def note(call: str, status: int, seconds: float) -> None:
    """Count a call that has ended, and write a line of it to the log."""
    metrics.CALLS.labels(call, str(status)).inc()
    metrics.CALL_SECONDS.labels(call).observe(seconds)
    fields = {"call": call, "status": status, "seconds": round(seconds, 4)}
    LOG.info("call", extra={"fields": fields})


def as_json(event: Event) -> dict[str, Any]:
    """An event as JSON can hold it."""
    if "npz" not in event:
        return dict(event)
    return {**event, "npz": base64.b64encode(event["npz"]).decode()}


def described(error: BaseException, where: str) -> dict[str, Any]:
    """Status and JSON of an error; an unexpected one says nothing of itself and is logged."""
    said: dict[str, Any] = {"type": type(error).__name__, "request": REQUEST.get() or ""}
    if not isinstance(error, GrokError):
        # Its text may hold what somebody typed.
        last = traceback.extract_tb(error.__traceback__)[-1]
        LOG.error("A call failed: %s at %s:%s", type(error).__name__, last.filename, last.lineno)
        said |= {
            "type": "Defect",
            "message": "This call met a defect of the program. The server's log says where.",
            "where": where,
            "found": "a defect",
            "expected": "a result",
            "do": "Tell whoever runs this server, with the request's id.",
        }
        return {"status": 500, "error": said}
    kind = next(kind for kind in KNOWN if isinstance(error, kind))
    status, expected, do = KNOWN[kind]
    said |= {"message": str(error), "where": where, "found": str(error)}
    said |= {"expected": expected, "do": do}
    if isinstance(error, BodyError):
        said |= {"where": error.where, "found": error.found, "expected": error.expected}
    if isinstance(error, BusyError):
        said["retry_after"] = error.retry_after or 1
    return {"status": status, "error": said}
