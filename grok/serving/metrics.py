"""Figures of a shared model for Prometheus: counts, sizes and seconds, nothing anybody typed.

They are of the process that holds the model; memory and open files come from the client library's
own `process_…` figures.
"""

from __future__ import annotations

import weakref
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram


class HasCallers(Protocol):
    """A queue."""

    @property
    def n_callers(self) -> int: ...


KINDS = {False: "prompt", True: "background"}
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_queues: weakref.WeakSet[HasCallers] = weakref.WeakSet()

WAITS = Histogram(
    "grok_lens_queue_wait_seconds", "Seconds until a turn came", ["kind"], buckets=SECONDS
)
TURNS = Histogram("grok_lens_turn_seconds", "Seconds that a turn took", buckets=SECONDS)
TOGETHER = Histogram(
    "grok_lens_turn_prompts", "Prompts that shared a turn", buckets=(1, 2, 4, 8, 16, 32, 64)
)
REFUSED = Counter("grok_lens_refused", "Callers that were sent away", ["why"])
CALLS = Counter("grok_lens_model_calls", "Calls of the model's server, by end", ["call", "status"])
CALL_SECONDS = Histogram(
    "grok_lens_model_call_seconds", "Seconds of a call, waiting included", ["call"], buckets=SECONDS
)
RUNNING = Gauge("grok_lens_model_calls_now", "Calls under way")
_callers = Gauge("grok_lens_queue_callers", "Callers that have their turn or wait for it")


def watch(queue: HasCallers) -> None:
    """Count the callers of a queue for as long as it is there."""
    _queues.add(queue)


_callers.set_function(lambda: sum(queue.n_callers for queue in list(_queues)))
