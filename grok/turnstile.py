"""One bounded first-come, first-served queue around something that one caller uses at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grok.errors import BusyError


class Turnstile:
    """Lets callers through one by one, in the order they came.

    Args:
        most_waiting: callers that may wait; one more is turned away at once.
        timeout: seconds a caller waits before it gives up.
    """

    def __init__(self, most_waiting: int = 8, timeout: float = 120.0) -> None:
        self.most_waiting, self.timeout = most_waiting, timeout
        self._line: deque[object] = deque()
        self._moved = threading.Condition()

    @property
    def in_line(self) -> int:
        """Callers inside or waiting."""
        with self._moved:
            return len(self._line)

    @contextmanager
    def turn(self, on_wait: Callable[[int], object] | None = None) -> Iterator[None]:
        """Waits for this caller's turn, then holds it for the `with` block.

        Args:
            on_wait: called with the number of callers ahead, when there are any and each
                time it changes; not called under the queue's lock.

        Raises:
            BusyError: the queue is full, or the wait was longer than the timeout.
        """
        ticket = object()
        with self._moved:
            if len(self._line) > self.most_waiting:
                raise BusyError(
                    f"The model is busy and {len(self._line) - 1} others wait already. "
                    "Try again in a moment."
                )
            self._line.append(ticket)
        try:
            self._wait(ticket, on_wait)
            yield
        finally:
            with self._moved:
                self._line.remove(ticket)
                self._moved.notify_all()

    def _wait(self, ticket: object, on_wait: Callable[[int], object] | None) -> None:
        deadline = time.monotonic() + self.timeout
        told = 0
        while True:
            with self._moved:
                ahead = self._line.index(ticket)
                while ahead and (ahead == told or on_wait is None):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise BusyError(
                            f"The model was busy for {self.timeout:.0f} seconds. Try again later."
                        )
                    self._moved.wait(left)
                    ahead = self._line.index(ticket)
            if not ahead:
                return
            told = ahead
            if on_wait is not None:
                on_wait(ahead)
