"""How far a pass over the layers is, told to whoever watches.

A watcher belongs to the code that sets it, not to the model, so two threads can each watch
their own pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class PassProgress:
    """How far a pass is.

    Attributes:
        layer: layers that are finished.
        n_layers: layers in all.
        fraction: of the whole pass, 0 to 1; the unembedding counts as one layer.
        bytes_read: from disk in this pass, of the layers; the embedding is not counted.
        seconds: since the pass began.
        seconds_left: at the speed so far; None while there is too little to tell from.
    """

    layer: int
    n_layers: int
    fraction: float
    bytes_read: int
    seconds: float
    seconds_left: float | None


Watcher = Callable[[PassProgress], object]
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)

# Below this share of a pass the time left is not told.
TOO_LITTLE = 0.01


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Every pass that runs in the block tells `watcher`; what it raises ends the pass.

    >>> with watching(print):            # doctest: +SKIP
    ...     model.trace_routing("The capital of France is")
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def tell(now: PassProgress) -> None:
    """Tell the watcher of the current context about a pass that runs elsewhere."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(now)


class Watch:
    """Tells the watcher of the current context about one pass.

    Args:
        n_layers: layers of the model.
        first: layers that an earlier run has finished.
    """

    def __init__(self, n_layers: int, first: int = 0) -> None:
        self._watcher = _watcher.get()
        self._n_layers, self._first = n_layers, first
        self._began = time.monotonic()

    def tell(self, layers: float, bytes_read: int = 0) -> None:
        """Tells that `layers` are done: whole ones and a part; n_layers + 1 is all."""
        if self._watcher is None:
            return
        total = self._n_layers + 1
        seconds = time.monotonic() - self._began
        own = (layers - self._first) / (total - self._first)
        left = seconds / own * (1 - own) if own >= TOO_LITTLE else None
        self._watcher(
            PassProgress(
                layer=min(int(layers), self._n_layers),
                n_layers=self._n_layers,
                fraction=layers / total,
                bytes_read=bytes_read,
                seconds=seconds,
                seconds_left=left,
            )
        )


Progress = Callable[[int, int], None]
