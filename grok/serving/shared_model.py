"""A loaded model that many sessions use in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from grok.serving.batches import Batches
from grok.serving.jobs import patient_turn
from grok.serving.queue import Caller, FairQueue, OnWait

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from grok.config import ModelConfig
    from grok.engine.compiled import Forward
    from grok.experiments.ablation import AblationSweep
    from grok.experiments.collecting import Progress
    from grok.experiments.collection import Collection
    from grok.experiments.forks import Turn
    from grok.experiments.logit_lens import LogitLens
    from grok.experiments.patching import PatchSweep
    from grok.experiments.what_if import WhatIf
    from grok.interventions.edits import Edits
    from grok.planning.machine import Rates
    from grok.planning.modes import ModePlan
    from grok.runner.interfaces import Prompt
    from grok.runner.model import Model
    from grok.runner.results import Generation, Step
    from grok.trace import RoutingTrace


STREAMED = FairQueue()  # the queue of all models that are read from disk for every pass
MOST_GENERATIONS = 8  # continuations under way at once: each holds keys and values of its own


class SharedModel:
    """A model behind one fair queue, so that two people's prompts never mix.

    Prompts that wait at the same time go through the model together (see `Batches`). All else
    runs by turns in the same order: sweeps layer by layer and as work in the background,
    continuations token by token.

    All streamed models stand in one queue: they share the disk, and two of them at once would
    take twice the memory that was allowed.

    Attributes:
        model: the loaded model; use it through the methods here.
        queue: its queue; the one of all streamed models where it is streamed.
        caller: whose calls these are; see `of`.
        rates: of this machine, where they were measured; `plan` rests on them.
    """

    def __init__(self, model: Model, rates: Rates | None = None) -> None:
        self.model, self.rates = model, rates
        self.streamed = model.mode == "streamed"
        self.queue = STREAMED if self.streamed else FairQueue()
        self.caller = Caller()
        self.batches = Batches(model, self.queue)
        self._generations = FairQueue(slots=MOST_GENERATIONS)

    def of(self, person: Hashable, *, background: bool = False) -> SharedModel:
        """The same model, for the calls of one person.

        Args:
            person: any key that is the same in all of this person's calls.
            background: nobody waits for each step, so that others go first.
        """
        own = copy.copy(self)
        own.caller = Caller(person, background)
        return own

    # what the model is

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def sha256(self) -> str:
        return self.model.sha256

    @property
    def dtype(self) -> str:
        return self.model.dtype

    @property
    def pad_token(self) -> int | None:
        """An id that attention never reads; None for none."""
        return self.model.engine.architecture.pad_token

    def plan(self, n_tokens: int) -> ModePlan:
        """Memory of a pass over so many tokens, and its time and that of each token after it.

        An estimate, without times where `rates` were not measured.
        """
        from grok.planning import machine, modes

        plans = modes.plan(
            self.model.engine.architecture,
            self.rates or machine.unmeasured(),
            n_tokens=n_tokens,
            memory_budget=self.model.engine.layers.memory_budget or modes.DEFAULT_BUDGET,
        )
        return next(one for one in plans if one.mode == self.model.mode)

    def encode(self, prompt: Prompt) -> np.ndarray:
        """`Model.encode`."""
        return self.model.encode(prompt)

    @property
    def has_chat_template(self) -> bool:
        """Whether messages of a chat can be made prompts."""
        return self.model.chat_template is not None and self.model.tokenizer is not None

    def chat_prompt(self, text: str) -> str:
        """`Model.chat_prompt` of one message of a user."""
        return self.model.chat_prompt(text)

    def pieces(self, tokens: Sequence[int] | np.ndarray, *, apart: bool = False) -> list[str]:
        """`Model.pieces`."""
        return self.model.pieces(tokens, apart=apart)

    def text(self, tokens: Sequence[int] | np.ndarray) -> str:
        """`Model.text`."""
        return self.model.text(tokens)

    # runs

    def turn(self, on_wait: OnWait | None = None) -> AbstractContextManager[None]:
        """A turn of this caller at the model itself; see `FairQueue.turn`."""
        return self.queue.turn(on_wait, caller=self.caller)

    def trace(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> RoutingTrace:
        """`Model.trace_routing`, in turn; `on_wait` is told place and time.

        Raises:
            GrokError: as the model does; BusyError when the queue is full or too slow.
        """
        if options.get("edits"):
            tokens = self.model.encode(prompt)  # an unusable prompt need not wait
            with self.turn(on_wait):
                return self.model.trace_routing(tokens, **options)
        options.pop("edits", None)
        return self.trace_all([prompt], on_wait=on_wait, **options)[0]

    def trace_all(
        self,
        prompts: Sequence[Prompt],
        *,
        on_wait: OnWait | None = None,
        candidates: int = 10,
    ) -> list[RoutingTrace]:
        """`Model.trace_routing` of several prompts, each with others that wait at the time.

        The numbers are those of a prompt alone but for rounding: a batch of another size may sum
        in another order. Of a streamed model they go in one turn and one pass over the weights.
        """
        from grok.runner.batching import trace_together

        tokens = [self.model.encode(prompt) for prompt in prompts]
        if self.streamed:
            with self.turn(on_wait):
                return trace_together(self.model, tokens, candidates=candidates)
        found = self.batches.read(tokens, candidates, self.caller, on_wait)
        return [
            self.model.routing_trace([(one, result)], one.size, {"max_new_tokens": 0})
            for one, result in zip(tokens, found, strict=True)
        ]

    def what_if(
        self, prompt: Prompt, edits: Edits, *, on_wait: OnWait | None = None, **options: Any
    ) -> WhatIf:
        """`grok.experiments.what_if`, in turn."""
        return self.what_ifs(prompt, [edits], on_wait=on_wait, **options)[0]

    def what_ifs(
        self,
        prompt: Prompt,
        edits: Sequence[Edits],
        *,
        on_wait: OnWait | None = None,
        candidates: int = 10,
    ) -> list[WhatIf]:
        """`what_if` of several edits apart, the prompt as it is run once; others have turns
        between them, but where the weights are streamed all go in one turn and few passes."""
        from grok.experiments.what_if import beside, what_ifs

        tokens = self.model.encode(prompt)
        for one in edits:
            self.model.hooks(tokens, one)  # edits that do not fit need not wait
        with self.queue.visit(self.caller) as visit:
            if self.streamed:
                with visit.turn(on_wait):
                    return what_ifs(self.model, tokens, edits, candidates=candidates)
            found = []
            with visit.turn(on_wait):
                base = self.model.run_one(tokens, candidates=candidates)
            for one in edits:
                with visit.turn(on_wait):
                    changed = self.model.run_one(tokens, candidates=candidates, edits=one)
                found.append(beside(self.model, tokens, [base, changed], one))
            return found

    def logit_lens(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> LogitLens:
        """`grok.experiments.logit_lens`, in turn."""
        from grok.experiments.logit_lens import logit_lens

        tokens = self.model.encode(prompt)
        with self.turn(on_wait):
            return logit_lens(self.model, tokens, **options)

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
        if self.streamed:
            with self.turn(on_wait):
                yield nullcontext
            return
        with self.queue.visit(Caller(self.caller.person, background=True)) as visit:
            yield partial(visit.turn, on_wait)

    def stream(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> Iterator[Step]:
        """`Model.stream`; others take their turns between two tokens."""
        steps = self.model.stream(prompt, **options)
        with (
            self._generations.turn(on_wait, caller=self.caller),
            self.queue.visit(self.caller) as visit,
        ):
            while True:
                with visit.turn(on_wait):
                    step = next(steps, None)
                if step is None:
                    return
                yield step

    def generate(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> Generation:
        """`Model.generate`, in turn."""
        return self.collect(list(self.stream(prompt, on_wait=on_wait, **options)), options)

    def collect(self, steps: Sequence[Step], options: Mapping[str, Any]) -> Generation:
        """`Model.collect`; nothing is run for it."""
        return self.model.collect(steps, options)

    def collect_prompts(
        self,
        prompts: Sequence[Prompt],
        folder: str | Path,
        *,
        check: Callable[[], object],
        labels: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Collection:
        """`grok.experiments.collect` in the background: others have turns between its passes.

        Args:
            check: called while it waits; what it raises ends the wait, as `progress` does.
            prompts, folder, labels, progress: see there.
        """
        from grok.experiments.collecting import collect

        caller = Caller(self.caller.person, background=True)
        return collect(
            self.model,
            prompts,
            folder,
            labels=labels,
            progress=progress,
            turn=partial(patient_turn, self.queue, check, caller=caller),
        )

    def read_rows(self, rows: Sequence[np.ndarray], on_wait: OnWait | None = None) -> Forward:
        """The routing of prompts padded to one length, in one pass and turn, without next tokens.

        Args:
            rows: tokens [T] of each; one that was there before only fills up.
            on_wait: is told the place in the queue.
        """
        from grok.engine.compiled import bucket, padded
        from grok.engine.engine import Batch
        from grok.interventions.hooks import no_hooks

        length = bucket(max(len(one) for one in rows))
        given, real, keys = padded(rows, length, self.pad_token)
        seen = [one.tobytes() for one in rows]
        real[[one in seen[:i] for i, one in enumerate(seen)]] = False
        batch = Batch(given, 0, keys, None, 0, no_hooks(self.config), real)
        with self.turn(on_wait):
            return self.model.engine.run([batch])[0]
