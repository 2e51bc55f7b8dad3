"""A continuation under way in one session: the tokens made so far, and the trace it ends with."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from grok import continued
from grok.serving.interfaces import ServedModel
from grok.trace import RoutingTrace
from lens.recipe.steps import note
from lens.traces import RoutedText
from pages.live.session import kept_traces
from pages.live.session.shared_models import OnWait
from pages.shell import data_source, links
from pages.shell.session_keys import SessionKey, SessionValue

if TYPE_CHECKING:
    from grok.runner.results import Step

PATIENCE = 10.0  # seconds for a token of a slow model


class SamplingOptions(TypedDict, total=False):
    """Settings of a continuation; the options of the model's `stream`."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


@dataclass
class GenerationRun:
    """A continuation under way.

    Attributes:
        model: that it runs on, once it is loaded.
        options: of the model's `stream`.
        steps: made so far.
        before: the trace that it will replace.
        cancelled: set by who wants it to end.
        ended: set when it has ended.
        prompt: token ids [T], once the model is loaded.
        source: checkpoint, text and dtype, for a program that makes it again.
    """

    model: ServedModel | None = None
    options: SamplingOptions = field(default_factory=lambda: SamplingOptions())
    steps: list[Step] = field(default_factory=list)
    before: RoutedText | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    prompt: np.ndarray | None = None
    source: tuple[str, str | list[int], str] | None = None

    def begin(self, model: ServedModel, prompt: np.ndarray, options: SamplingOptions) -> None:
        """Take the model it runs on, and fit the new tokens into its context."""
        room = model.config.context_length - len(prompt)
        self.model, self.prompt, self.options = model, prompt, options.copy()
        self.options["max_new_tokens"] = max(min(options["max_new_tokens"], room), 1)

    def stream(self, on_wait: OnWait) -> Generator[Step]:
        """The tokens as they are made; closing it gives up the place in the queue."""
        assert self.model is not None and self.prompt is not None, "begin comes first"
        yield from self.model.stream(self.prompt, on_wait=on_wait, **self.options)

    def take(self, step: Step) -> None:
        """Keep a token that was made."""
        # The logits of all tokens would be most of what is held, and are not used.
        none = step.routing.logits[:, :, :0]
        self.steps.append(step._replace(routing=step.routing._replace(logits=none)))


@dataclass(frozen=True)
class Generated:
    """A continuation that has ended.

    Attributes:
        trace: of the prompt and all new tokens but the last.
        text: of the new tokens.
        last: the piece of the last token, which the model never read.
        n_tokens: new tokens made.
        n_asked: new tokens that were asked for.
        why: "end" of the text, "length" or "stopped".
    """

    trace: RoutingTrace
    text: str
    last: str
    n_tokens: int
    n_asked: int
    why: str


RUNNING = SessionValue[GenerationRun](SessionKey.GENERATION)
DONE = SessionValue[Generated](SessionKey.GENERATED)


def finish() -> None:
    """Keep what a run has made as a trace of this session, and end it if it still goes on.

    A click starts the page anew in another thread, at once; the run that it cuts short learns
    of it when it next draws. So it is told, and given time to hand over its last token. All
    modes that show the session's trace call this first.
    """
    run = RUNNING.take()
    if run is None:
        return
    run.cancelled.set()
    if not run.steps or kept_traces.kept().get("first") is not run.before:
        return  # nothing made yet, or something newer since
    run.ended.wait(PATIENCE)
    keep(run)


def keep(run: GenerationRun) -> None:
    """Keep what was made as the trace of this session."""
    assert run.model is not None, "a run with steps has a model"
    model, steps = run.model, list(run.steps)
    made = model.collect(steps, run.options)
    if run.source is not None:
        options = {**run.options, "max_new_tokens": len(steps)}
        note(made.trace, continued, *run.source, **options)
    kept_traces.keep("first", made.trace)
    data_source.TRACE_SHOWN.set("first")
    links.forget("token")
    asked = run.options["max_new_tokens"]
    ended = steps[-1].token in model.config.eos_tokens
    why = "end" if ended else "length" if len(steps) == asked else "stopped"
    DONE.set(Generated(made.trace, made.text, str(steps[-1].piece), len(steps), asked, why))
