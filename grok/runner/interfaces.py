"""The parts of a model that a trace block needs, and the types that callers pass to a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from grok.config import ModelConfig
from grok.engine.compiled import Forward
from grok.interventions.edits import NO_EDITS, Edits
from grok.interventions.sites import HookPoint
from grok.runner.results import Generation, Step
from grok.trace import RoutingTrace

# Text, or token ids [T].
Prompt = str | Sequence[int] | np.ndarray
# Tokens of each pass of a run, with its result.
Passes = Sequence[tuple[np.ndarray, Forward]]


class RunnableModel(Protocol):
    """A model that runs prompts; `grok.runner.model.Model` is one."""

    @property
    def config(self) -> ModelConfig: ...

    def run_one(
        self,
        tokens: np.ndarray,
        *,
        candidates: int = 1,
        edits: Edits = NO_EDITS,
        wanted: Iterable[HookPoint] = (),
    ) -> Forward:
        """One pass over one sequence."""
        ...

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        candidates: int = 10,
        edits: Edits = NO_EDITS,
        wanted: Iterable[HookPoint] = (),
    ) -> Iterator[Step]:
        """A continuation, token by token."""
        ...

    def collect(self, steps: Sequence[Step], options: Mapping[str, Any]) -> Generation:
        """The steps of a continuation put together."""
        ...

    def routing_trace(
        self,
        passes: Passes,
        prompt_length: int,
        settings: Mapping[str, Any],
        edits: Edits = NO_EDITS,
    ) -> RoutingTrace:
        """The routing of the passes of one run."""
        ...
