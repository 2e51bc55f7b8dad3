"""The one grok file that imports streamlit: a model loaded once and shared by all sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from grok.turnstile import Turnstile

if TYPE_CHECKING:
    from grok.interventions import Edits
    from grok.model import Generation, Model, Step
    from grok.readings import LogitLens, WhatIf
    from grok.sweeps import AblationSweep, PatchSweep
    from grok.trace import RoutingTrace

OnWait = Callable[[int], object]


class SharedModel:
    """A model behind one bounded queue, so that two people's prompts never mix.

    Attributes:
        model: the loaded model; use it through the methods here.
        line: the queue.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.line = Turnstile()

    def trace(self, prompt: Any, *, on_wait: OnWait | None = None, **options: Any) -> RoutingTrace:
        """`Model.trace_routing`, in turn; `on_wait` is told how many are ahead.

        Raises:
            GrokError: as the model does; BusyError when the queue is full or too slow.
        """
        self.model.encode(prompt)  # an unusable prompt need not wait
        with self.line.turn(on_wait):
            return self.model.trace_routing(prompt, **options)

    def what_if(
        self, prompt: Any, edits: Edits, *, on_wait: OnWait | None = None, **options: Any
    ) -> WhatIf:
        """`grok.readings.what_if`, in turn."""
        from grok.readings import what_if

        self.model.encode(prompt)
        with self.line.turn(on_wait):
            return what_if(self.model, prompt, edits, **options)

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

        return ablation_sweep(self.model, prompt, turn=partial(self.line.turn, on_wait), **options)

    def patch_sweep(
        self, clean: Any, corrupt: Any, *, on_wait: OnWait | None = None, **options: Any
    ) -> PatchSweep:
        """`grok.sweeps.patch_sweep`; others take their turns between its layers."""
        from grok.sweeps import patch_sweep

        turn = partial(self.line.turn, on_wait)
        return patch_sweep(self.model, clean, corrupt, turn=turn, **options)

    def stream(
        self, prompt: Any, *, on_wait: OnWait | None = None, **options: Any
    ) -> Iterator[Step]:
        """`Model.stream`, the whole continuation in one turn."""
        steps = self.model.stream(prompt, **options)
        with self.line.turn(on_wait):
            yield from steps

    def generate(self, prompt: Any, *, on_wait: OnWait | None = None, **options: Any) -> Generation:
        """`Model.generate`, in turn."""
        return self.model.collect(list(self.stream(prompt, on_wait=on_wait, **options)), options)


@st.cache_resource(max_entries=2, show_spinner=False)
def shared_model(
    checkpoint: str | None = None,
    dtype: str = "bfloat16",
    *,
    _progress: Callable[[int, int], None] | None = None,
) -> SharedModel:
    """The model of a checkpoint folder (the bundled one when None), loaded once for everyone.

    Args:
        checkpoint: folder that holds `ckpt-0`.
        dtype: of activations.
        _progress: called with (tensors read, tensors in all) by the session that loads.

    Raises:
        GrokError: as `grok.runner.load`; a failed load is tried anew by the next call.
    """
    from grok.runner import load

    return SharedModel(load(checkpoint, dtype=dtype, progress=_progress))
