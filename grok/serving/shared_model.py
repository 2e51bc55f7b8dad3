"""A loaded model that many sessions use in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from grok.serving.queue import OnWait, PromptQueue

if TYPE_CHECKING:
    from grok.experiments.ablation import AblationSweep
    from grok.experiments.forks import Turn
    from grok.experiments.logit_lens import LogitLens
    from grok.experiments.patching import PatchSweep
    from grok.experiments.what_if import WhatIf
    from grok.interventions.edits import Edits
    from grok.runner.interfaces import Prompt
    from grok.runner.model import Model
    from grok.runner.results import Generation, Step
    from grok.trace import RoutingTrace


STREAMED = PromptQueue()  # the queue of all models that are read from disk for every pass


class SharedModel:
    """A model behind one bounded queue, so that two people's prompts never mix.

    All streamed models stand in one queue: they share the disk, and two of them at once would
    take twice the memory that was allowed.

    Attributes:
        model: the loaded model; use it through the methods here.
        queue: its queue; the one of all streamed models where it is streamed.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.streamed = model.mode == "streamed"
        self.queue = STREAMED if self.streamed else PromptQueue()

    def trace(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> RoutingTrace:
        """`Model.trace_routing`, in turn; `on_wait` is told how many come first.

        Raises:
            GrokError: as the model does; BusyError when the queue is full or too slow.
        """
        self.model.encode(prompt)  # an unusable prompt need not wait
        with self.queue.turn(on_wait):
            return self.model.trace_routing(prompt, **options)

    def trace_all(
        self, prompts: Sequence[Prompt], *, on_wait: OnWait | None = None, **options: Any
    ) -> list[RoutingTrace]:
        """`Model.trace_routing` of several prompts, in one turn and one pass over the weights."""
        from grok.runner.batching import trace_together

        for prompt in prompts:
            self.model.encode(prompt)
        with self.queue.turn(on_wait):
            return trace_together(self.model, prompts, **options)

    def what_if(
        self, prompt: Prompt, edits: Edits, *, on_wait: OnWait | None = None, **options: Any
    ) -> WhatIf:
        """`grok.experiments.what_if`, in turn."""
        from grok.experiments.what_if import what_if

        self.model.encode(prompt)
        with self.queue.turn(on_wait):
            return what_if(self.model, prompt, edits, **options)

    def what_ifs(
        self,
        prompt: Prompt,
        edits: Sequence[Edits],
        *,
        on_wait: OnWait | None = None,
        **options: Any,
    ) -> list[WhatIf]:
        """`what_if` of several edits apart; together in one turn and few passes where the weights
        are streamed."""
        if not self.streamed:
            return [self.what_if(prompt, one, on_wait=on_wait, **options) for one in edits]
        from grok.experiments.what_if import what_ifs

        self.model.encode(prompt)
        with self.queue.turn(on_wait):
            return what_ifs(self.model, prompt, edits, **options)

    def logit_lens(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> LogitLens:
        """`grok.experiments.logit_lens`, in turn."""
        from grok.experiments.logit_lens import logit_lens

        with self.queue.turn(on_wait):
            return logit_lens(self.model, prompt, **options)

    def ablation_sweep(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> AblationSweep:
        """`grok.experiments.ablation_sweep`; others take their turns between its layers."""
        from grok.experiments.ablation import ablation_sweep

        with self._sweep(on_wait) as turn:
            return ablation_sweep(self.model, prompt, turn=turn, **options)

    def patch_sweep(
        self, clean: Prompt, corrupt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> PatchSweep:
        """`grok.experiments.patch_sweep`; others take their turns between its layers."""
        from grok.experiments.patching import patch_sweep

        with self._sweep(on_wait) as turn:
            return patch_sweep(self.model, clean, corrupt, turn=turn, **options)

    @contextmanager
    def _sweep(self, on_wait: OnWait | None) -> Iterator[Turn]:
        """Gives a turn for each layer; one for all layers where the sweep reads from disk."""
        if not self.streamed:
            yield partial(self.queue.turn, on_wait)
            return
        with self.queue.turn(on_wait):
            yield nullcontext

    def stream(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> Iterator[Step]:
        """`Model.stream`, the whole continuation in one turn; of a streamed model, whose tokens
        may take minutes each, others take their turns between two tokens."""
        steps = self.model.stream(prompt, **options)
        if self.streamed:
            yield from self._one_by_one(steps, on_wait)
            return
        with self.queue.turn(on_wait):
            yield from steps

    def _one_by_one(self, steps: Iterator[Step], on_wait: OnWait | None) -> Iterator[Step]:
        while True:
            with self.queue.turn(on_wait):
                step = next(steps, None)
            if step is None:
                return
            yield step

    def generate(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> Generation:
        """`Model.generate`, in turn."""
        return self.model.collect(list(self.stream(prompt, on_wait=on_wait, **options)), options)
