"""The one grok file that imports streamlit: a model loaded once and shared by all sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from grok.turnstile import Turnstile

if TYPE_CHECKING:
    from grok.branches import Turn
    from grok.interventions import Edits
    from grok.model import Generation, Model, Step
    from grok.readings import LogitLens, WhatIf
    from grok.sweeps import AblationSweep, PatchSweep
    from grok.trace import RoutingTrace

OnWait = Callable[[int], object]
OnLoad = Callable[[int, int], None]
STREAMED = Turnstile()  # the queue of all models that are read from disk for every pass


class SharedModel:
    """A model behind one bounded queue, so that two people's prompts never mix.

    All streamed models stand in one queue: they share the disk, and two of them at once would
    take twice the memory that was allowed.

    Attributes:
        model: the loaded model; use it through the methods here.
        line: the queue.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.streamed = getattr(model, "mode", "resident") == "streamed"
        self.line = STREAMED if self.streamed else Turnstile()

    def trace(self, prompt: Any, *, on_wait: OnWait | None = None, **options: Any) -> RoutingTrace:
        """`Model.trace_routing`, in turn; `on_wait` is told how many are ahead.

        Raises:
            GrokError: as the model does; BusyError when the queue is full or too slow.
        """
        self.model.encode(prompt)  # an unusable prompt need not wait
        with self.line.turn(on_wait):
            return self.model.trace_routing(prompt, **options)

    def trace_all(
        self, prompts: Sequence[Any], *, on_wait: OnWait | None = None, **options: Any
    ) -> list[RoutingTrace]:
        """`Model.trace_routing` of several prompts, in one turn and one pass over the weights."""
        from grok.together import trace_together

        for prompt in prompts:
            self.model.encode(prompt)
        with self.line.turn(on_wait):
            return trace_together(self.model, prompts, **options)

    def what_if(
        self, prompt: Any, edits: Edits, *, on_wait: OnWait | None = None, **options: Any
    ) -> WhatIf:
        """`grok.readings.what_if`, in turn."""
        from grok.readings import what_if

        self.model.encode(prompt)
        with self.line.turn(on_wait):
            return what_if(self.model, prompt, edits, **options)

    def what_ifs(
        self, prompt: Any, edits: Sequence[Edits], *, on_wait: OnWait | None = None, **options: Any
    ) -> list[WhatIf]:
        """`what_if` of several edits apart; together in one turn and few passes where the weights
        are streamed."""
        if not self.streamed:
            return [self.what_if(prompt, one, on_wait=on_wait, **options) for one in edits]
        from grok.readings import what_ifs

        self.model.encode(prompt)
        with self.line.turn(on_wait):
            return what_ifs(self.model, prompt, edits, **options)

    def logit_lens(
        self, prompt: Any, *, on_wait: OnWait | None = None, **options: Any
    ) -> LogitLens:
        """`grok.readings.logit_lens`, in turn."""
        from grok.readings import logit_lens

        with self.line.turn(on_wait):
            return logit_lens(self.model, prompt, **options)

    def ablation_sweep(
        self, prompt: Any, *, on_wait: OnWait | None = None, **options: Any
    ) -> AblationSweep:
        """`grok.sweeps.ablation_sweep`; others take their turns between its layers."""
        from grok.sweeps import ablation_sweep

        with self._sweep(on_wait) as turn:
            return ablation_sweep(self.model, prompt, turn=turn, **options)

    def patch_sweep(
        self, clean: Any, corrupt: Any, *, on_wait: OnWait | None = None, **options: Any
    ) -> PatchSweep:
        """`grok.sweeps.patch_sweep`; others take their turns between its layers."""
        from grok.sweeps import patch_sweep

        with self._sweep(on_wait) as turn:
            return patch_sweep(self.model, clean, corrupt, turn=turn, **options)

    @contextmanager
    def _sweep(self, on_wait: OnWait | None) -> Iterator[Turn]:
        """A turn for each layer; for all of them where a sweep reads from disk from end to end."""
        if not self.streamed:
            yield partial(self.line.turn, on_wait)
            return
        with self.line.turn(on_wait):
            yield nullcontext

    def stream(
        self, prompt: Any, *, on_wait: OnWait | None = None, **options: Any
    ) -> Iterator[Step]:
        """`Model.stream`, the whole continuation in one turn; of a streamed model, whose tokens
        may take minutes each, others take their turns between two tokens."""
        steps = self.model.stream(prompt, **options)
        if self.streamed:
            yield from self._one_by_one(steps, on_wait)
            return
        with self.line.turn(on_wait):
            yield from steps

    def _one_by_one(self, steps: Iterator[Step], on_wait: OnWait | None) -> Iterator[Step]:
        while True:
            with self.line.turn(on_wait):
                step = next(steps, None)
            if step is None:
                return
            yield step

    def generate(self, prompt: Any, *, on_wait: OnWait | None = None, **options: Any) -> Generation:
        """`Model.generate`, in turn."""
        return self.model.collect(list(self.stream(prompt, on_wait=on_wait, **options)), options)


def shared_model(
    checkpoint: str | None = None,
    dtype: str = "bfloat16",
    mode: str = "resident",
    memory_budget: int | None = None,
    *,
    _progress: OnLoad | None = None,
) -> SharedModel:
    """The model of a checkpoint folder (the bundled one when None), loaded once for everyone.

    Two resident models are kept, and one streamed one: its buffers take most of its budget.

    Args:
        checkpoint: folder that holds `ckpt-0`.
        dtype: of activations.
        mode: "resident", or "streamed" from disk for every pass.
        memory_budget: bytes that a streamed model may take.
        _progress: called with (tensors read, tensors in all) by the session that loads.

    Raises:
        GrokError: as `grok.runner.load`; a failed load is tried anew by the next call.
    """
    if mode == "streamed":
        return _streamed(checkpoint, dtype, memory_budget, _progress=_progress)
    return _resident(checkpoint, dtype, mode, _progress=_progress)


@st.cache_resource(max_entries=2, show_spinner=False)
def _resident(
    checkpoint: str | None, dtype: str, mode: str, *, _progress: OnLoad | None
) -> SharedModel:
    from grok.runner import load

    return SharedModel(load(checkpoint, mode=mode, dtype=dtype, progress=_progress))


@st.cache_resource(max_entries=1, show_spinner=False)
def _streamed(
    checkpoint: str | None, dtype: str, memory_budget: int | None, *, _progress: OnLoad | None
) -> SharedModel:
    from grok.runner import load

    return SharedModel(
        load(
            checkpoint,
            mode="streamed",
            memory_budget=memory_budget,
            dtype=dtype,
            progress=_progress,
        )
    )
