"""One bounded first-come, first-served queue around something that one caller uses at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grok.errors import BusyError

# Called with the number of callers that come first.
OnWait = Callable[[int], object]

TELL_EVERY = 1.0  # seconds between two calls of `on_wait`


class PromptQueue:
    """Lets callers through one by one, in the order they came.

    Args:
        most_waiting: callers that may wait; one more is turned away at once.
        timeout: seconds a caller waits before it gives up, besides twice the expected turn
            (see `expect_turn`) of everyone before it.
    """

    def __init__(self, most_waiting: int = 8, timeout: float = 120.0) -> None:
        self.most_waiting, self.timeout = most_waiting, timeout
        self._turn_seconds = 0.0
        self._queue: deque[object] = deque()
        self._moved = threading.Condition()

    @property
    def n_callers(self) -> int:
        """Callers that have their turn or wait for it."""
        with self._moved:
            return len(self._queue)

    @property
    def turn_seconds(self) -> float:
        """Seconds that a turn is expected to take; 0 until `expect_turn` is called."""
        return self._turn_seconds

    def expect_turn(self, seconds: float) -> None:
        """Tells how long the turn of a caller to come will take.

        The longest turn that was told counts for everyone, until the queue is empty.
        """
        with self._moved:
            others = self._turn_seconds if self._queue else 0.0
            self._turn_seconds = max(others, seconds)

    @contextmanager
    def turn(self, on_wait: OnWait | None = None) -> Iterator[None]:
        """Waits for this caller's turn, then holds it for the `with` block.

        Args:
            on_wait: called with the number of callers that come first, when there are any, each
                time it changes and every second or so. An exception that it raises takes the
                caller out of the queue at once. It is not called under the queue's lock.

        Raises:
            BusyError: the queue is full, or the wait was longer than the timeout.
        """
        ticket = object()
        with self._moved:
            if len(self._queue) > self.most_waiting:
                raise BusyError(
                    f"The model is busy and {len(self._queue) - 1} others wait already. "
                    "Try again in a moment."
                )
            self._queue.append(ticket)
        try:
            self._wait(ticket, on_wait)
            yield
        finally:
            with self._moved:
                self._queue.remove(ticket)
                self._moved.notify_all()

    def _wait(self, ticket: object, on_wait: OnWait | None) -> None:
        start = time.monotonic()
        told, before = 0, self._n_before(ticket)
        patience = self.timeout + 2 * self.turn_seconds * before
        while before:
            left = start + patience - time.monotonic()
            if left <= 0:
                raise BusyError(f"The model was busy for {patience:.0f} seconds. Try again later.")
            if on_wait is not None:
                told = before
                on_wait(before)
            with self._moved:
                before = self._queue.index(ticket)
                if before and (on_wait is None or before == told):
                    self._moved.wait(left if on_wait is None else min(left, TELL_EVERY))
                    before = self._queue.index(ticket)

    def _n_before(self, ticket: object) -> int:
        with self._moved:
            return self._queue.index(ticket)
