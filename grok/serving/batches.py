"""Prompts that wait at the same time go through the model as one padded batch.

A batch's size and padded length are a shape, and each shape is a program of its own. Few shapes
are used, sizes 1, 2, 4, 8 … of the runner's buckets, and only those that are compiled: another one
is compiled in the background while people are served with smaller ones.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from grok.errors import BusyError
from grok.serving.jobs import Job, Jobs
from grok.serving.queue import Caller, FairQueue, OnWait

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from grok.engine.compiled import Forward
    from grok.runner.model import Model

ROOM = 1024  # padded tokens of a batch: more gain little and make the next one wait
MOST = 16  # prompts of a batch, for the same reason
WARMING = Caller(background=True)


class Kind(NamedTuple):
    """Prompts that can share a batch.

    Attributes:
        length: padded tokens of each.
        candidates: next tokens that are kept.
    """

    length: int
    candidates: int


@cache
def warming() -> Jobs:
    """The compiling of this process."""
    return Jobs(at_once=1, most=64).close_at_exit()


class Batches:
    """Batches of one model that is held on its devices.

    Args:
        model: runs them.
        queue: in which prompts wait for it.
        room: padded tokens of a batch.
    """

    def __init__(self, model: Model, queue: FairQueue, room: int = ROOM) -> None:
        self.model, self.queue, self.room = model, queue, room
        self._lock = threading.Lock()
        self._compiled: set[tuple[Kind, int]] = set()

    def read(
        self,
        prompts: Sequence[np.ndarray],
        candidates: int,
        caller: Caller,
        on_wait: OnWait | None = None,
    ) -> list[Forward]:
        """The result of each prompt, each in a batch with others of its kind, of anybody.

        Args:
            prompts: tokens [T] of each.
            candidates: next tokens to keep.
            caller: who asks.
            on_wait: see `FairQueue.turn`.

        Returns:
            Arrays with a batch axis of 1, as `Model.run_one`.
        """
        from grok.engine.compiled import bucket

        count = self.model.n_candidates(candidates)
        items = [(Kind(bucket(len(one)), count), one) for one in prompts]
        with self.queue.visit(caller) as visit:
            return visit.together(items, self._run, self.fit, on_wait)

    def fit(self, kind: Hashable, n_waiting: int) -> int:
        """The size of the next batch: the largest that is compiled and filled by those waiting."""
        assert isinstance(kind, Kind)
        most = max(1, min(n_waiting, MOST, self.room // kind.length))
        wanted = 1 << (most.bit_length() - 1)
        with self._lock:
            sizes = {size for known, size in self._compiled if known == kind and size <= wanted}
        if wanted > 1 and wanted not in sizes:  # one alone is compiled by being run
            self._compile_behind(kind, wanted)
        return max(sizes, default=1)

    def warm(self, kinds: Sequence[Kind]) -> None:
        """Compile some kinds in the background: one prompt, its logit lens, then larger batches."""
        for kind in kinds:
            self._compile_behind(kind, 1)
        for kind in kinds:
            self._behind((kind, "lens"), partial(self._read_lens, kind))
        for size in [1 << i for i in range(1, MOST.bit_length())]:
            for kind in kinds:
                if size * kind.length <= self.room:
                    self._compile_behind(kind, size)

    def _run(self, kind: Hashable, prompts: list[np.ndarray]) -> list[Forward]:
        from grok.runner.batching import read_batch

        assert isinstance(kind, Kind)
        found = read_batch(self.model, prompts, kind.candidates)
        with self._lock:
            self._compiled.add((kind, len(prompts)))
        return found

    def _compile_behind(self, kind: Kind, size: int) -> None:
        if size == 1 and (kind, 1) in self._compiled:
            return
        filler = [np.ones(kind.length, np.int32)] * size
        self._behind((kind, size), lambda: self._run(kind, filler))

    def _read_lens(self, kind: Kind) -> None:
        """A logit lens has programs of its own: a pass that keeps streams, and their reading."""
        from grok.experiments.logit_lens import logit_lens

        logit_lens(self.model, np.ones(kind.length, np.int32), candidates=kind.candidates)

    def _behind(self, key: Hashable, run: Callable[[], object]) -> None:
        with suppress(BusyError):  # it is being compiled, or much else is
            warming().start((id(self), key), lambda job: self._compile(job, run))

    def _compile(self, job: Job, run: Callable[[], object]) -> None:
        job.progress(0, 1)
        if self.model.mesh.size == 1:
            run()
            return
        # Programs that span devices must be begun in one order on all of them.
        with self.queue.turn(caller=WARMING):
            run()
