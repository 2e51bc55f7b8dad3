"""What a page or a program asks of a model that many use, wherever the model is.

`grok.serving.shared_model.SharedModel` holds it in this process,
`grok.serving.remote_model.RemoteModel` asks the process that does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from grok.serving.queue import OnWait

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from grok.config import ModelConfig
    from grok.experiments.ablation import AblationSweep
    from grok.experiments.collection import Collection
    from grok.experiments.forks import Progress
    from grok.experiments.logit_lens import LogitLens
    from grok.experiments.patching import PatchSweep
    from grok.experiments.what_if import WhatIf
    from grok.interventions.edits import Edits
    from grok.planning.modes import ModePlan
    from grok.runner.interfaces import Prompt
    from grok.runner.results import Generation, Step
    from grok.trace import RoutingTrace


class ServedModel(Protocol):
    """A model that many use. Each call says whose it is by the object it is made on: see `of`.

    `on_wait` of a run is told place and time while it waits; what it raises ends the run. Options
    of runs are those of the functions of the same names in `grok.experiments` and of `Model`.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def of(self, person: Hashable, *, background: bool = False) -> ServedModel:
        """The same model, for the calls of one person."""
        ...

    def plan(self, n_tokens: int) -> ModePlan:
        """An estimate of what a pass over so many tokens takes where the model is."""
        ...

    def encode(self, prompt: Prompt) -> np.ndarray:
        """Token ids [T] of a text, or ids as they are, checked."""
        ...

    def pieces(self, tokens: Sequence[int] | np.ndarray, *, apart: bool = False) -> list[str]:
        """The pieces of ids; see `Model.pieces`."""
        ...

    def text(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of ids."""
        ...

    @property
    def has_chat_template(self) -> bool:
        """Whether messages of a chat can be made prompts."""
        ...

    def chat_prompt(self, text: str) -> str:
        """A message of a user as the prompt that the model was taught; see `Model.chat_prompt`."""
        ...

    def trace(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> RoutingTrace:
        """The routing of a prompt."""
        ...

    def trace_all(
        self, prompts: Sequence[Prompt], *, on_wait: OnWait | None = None, candidates: int = 10
    ) -> list[RoutingTrace]:
        """The routing of several prompts."""
        ...

    def what_if(
        self, prompt: Prompt, edits: Edits, *, on_wait: OnWait | None = None, **options: Any
    ) -> WhatIf:
        """A prompt with and without edits."""
        ...

    def what_ifs(
        self,
        prompt: Prompt,
        edits: Sequence[Edits],
        *,
        on_wait: OnWait | None = None,
        candidates: int = 10,
    ) -> list[WhatIf]:
        """A prompt as it is, and under each of several edits apart."""
        ...

    def logit_lens(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> LogitLens:
        """Next tokens that the stream after each layer stands for."""
        ...

    def ablation_sweep(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> AblationSweep:
        """The effect of each expert."""
        ...

    def patch_sweep(
        self, clean: Prompt, corrupt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> PatchSweep:
        """The effect of each value of one prompt in another."""
        ...

    def stream(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> Iterator[Step]:
        """A continuation, token by token; closing it ends it."""
        ...

    def generate(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> Generation:
        """A continuation."""
        ...

    def collect(self, steps: Sequence[Step], options: Mapping[str, Any]) -> Generation:
        """The steps of a continuation put together."""
        ...

    def collect_prompts(
        self,
        prompts: Sequence[Prompt],
        folder: str | Path,
        *,
        check: Callable[[], object],
        labels: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Collection:
        """The routing of many prompts in a folder, made in the background."""
        ...
