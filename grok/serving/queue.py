"""One bounded first-come, first-served queue around something that one caller uses at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grok.errors import BusyError

TELL_EVERY = 1.0  # seconds between two calls of those who wait


class PromptQueue:
    """Lets callers through one by one, in the order they came.

    Args:
        most_waiting: callers that may wait; one more is turned away at once.
        timeout: seconds a caller waits before it gives up.
        a_turn: seconds that a turn is expected to take. Who finds others ahead waits twice as
            long for each of them, besides the timeout. It may be set anew at any time.
    """

    def __init__(self, most_waiting: int = 8, timeout: float = 120.0, a_turn: float = 0.0) -> None:
        self.most_waiting, self.timeout, self.a_turn = most_waiting, timeout, a_turn
        self._queue: deque[object] = deque()
        self._moved = threading.Condition()

    @property
    def n_callers(self) -> int:
        """Callers inside or waiting."""
        with self._moved:
            return len(self._queue)

    @contextmanager
    def turn(self, on_wait: Callable[[int], object] | None = None) -> Iterator[None]:
        """Waits for this caller's turn, then holds it for the `with` block.

        Args:
            on_wait: called with the number of callers ahead, when there are any, each time it
                changes and now and then, so that what it raises gives up the place at once; not
                called under the queue's lock.

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

    def _wait(self, ticket: object, on_wait: Callable[[int], object] | None) -> None:
        start = time.monotonic()
        told, ahead = 0, self._ahead(ticket)
        patience = self.timeout + 2 * self.a_turn * ahead
        while ahead:
            left = start + patience - time.monotonic()
            if left <= 0:
                raise BusyError(f"The model was busy for {patience:.0f} seconds. Try again later.")
            if on_wait is not None:
                told = ahead
                on_wait(ahead)
            with self._moved:
                ahead = self._queue.index(ticket)
                if ahead and (on_wait is None or ahead == told):
                    self._moved.wait(left if on_wait is None else min(left, TELL_EVERY))
                    ahead = self._queue.index(ticket)

    def _ahead(self, ticket: object) -> int:
        with self._moved:
            return self._queue.index(ticket)
