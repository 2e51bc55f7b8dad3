"""A prompt from the form: its limits, its tokens, its run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grok import trace_prompt
from grok.errors import PromptError
from grok.serving.interfaces import ServedModel
from grok.trace import RoutingTrace
from lens.recipe.steps import note
from pages.access import limits
from pages.live.session.shared_models import ModelChoice, OnLoad, OnWait, shared

LIMIT_VARIABLE = "GROK_LENS_MAX_PROMPT_TOKENS"


DEFAULT_LIMIT = 512


LONGEST_TEXT = 50_000  # characters of a prompt; the limit of its tokens comes on top


NO_PROMPT = "The prompt is empty. Type a text, or choose an example."


def prompt_limit() -> int:
    """Most tokens that a prompt may have here."""
    try:
        limit = int(os.environ.get(LIMIT_VARIABLE, ""))
    except ValueError:
        return DEFAULT_LIMIT
    return limit if limit > 0 else DEFAULT_LIMIT


def token_ids(text: str) -> list[int]:
    """Token ids typed as numbers, for a model without a tokenizer.

    Raises:
        PromptError: something else than whole numbers was typed.
    """
    words = [word for word in re.split(r"[\s,;]+", text.strip()) if word]
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise PromptError(
            "This model has no tokenizer, so it takes token ids: whole numbers with commas "
            f"between them, as in 5, 17, 3. Found {text.strip()[:40]!r}."
        ) from error


@dataclass(frozen=True)
class Request:
    """A model and the dtype in which a prompt is to be run."""

    model: ModelChoice
    dtype: str


def run_all(
    request: Request,
    texts: Sequence[str],
    on_wait: OnWait,
    on_load: OnLoad,
) -> list[RoutingTrace]:
    """The traces of prompts, by the model that all sessions share; together in one turn.

    Args:
        request: the model and the dtype.
        texts: the prompts, or token ids where the model has no tokenizer.
        on_wait: told the place in the queue and the time.
        on_load: told how many of the model's tensors have been read.

    Raises:
        GrokError: a prompt or the model cannot be used; the text says why.
    """
    for text in texts:  # before a model is read for nothing
        check_text(text)
    model = shared(request.model, request.dtype, on_load)
    prompts = [encoded(model, request.model, text) for text in texts]
    traces = model.trace_all(prompts, on_wait=on_wait)
    for trace, text in zip(traces, texts, strict=True):
        note_trace(trace, request.model, text, request.dtype)
    return traces


def note_trace(trace: RoutingTrace, choice: ModelChoice, text: str, dtype: str) -> None:
    """Note how a trace is made again: by the model of these files, from the text."""
    note(trace, trace_prompt, choice.path, prompt_of(choice, text), dtype)


def prompt_of(choice: ModelChoice, text: str) -> str | list[int]:
    """What a typed text is to a model: itself, or the ids that were typed."""
    return text if choice.has_tokenizer else token_ids(text)


def encoded(model: ServedModel, choice: ModelChoice, text: str) -> np.ndarray:
    """The tokens [T] of a text, counted among the prompts of the person who asks.

    Raises:
        PromptError: it cannot be used.
        BusyError: the person has run as much as one person may.
    """
    prompt = uncounted(model, choice, text)
    limits.charge(choice.person, len(prompt))
    return prompt


def uncounted(model: ServedModel, choice: ModelChoice, text: str) -> np.ndarray:
    """The token ids [T] of a typed text, or the ids typed where there is no tokenizer.

    Raises:
        PromptError: there is no text, it is no prompt for this model, or longer than allowed.
    """
    check_text(text)
    prompt = model.encode(text if choice.has_tokenizer else token_ids(text))
    check_length(len(prompt))
    return prompt


def check_text(text: str) -> None:
    """Refuse a text that is empty or far too long, before its tokens are counted.

    Raises:
        PromptError: it is.
    """
    if not text.strip():
        raise PromptError(NO_PROMPT)
    if len(text) > LONGEST_TEXT:
        raise PromptError(
            f"The text “{' '.join(text[:40].split())} …” has {len(text):,} characters; at most "
            f"{LONGEST_TEXT:,} are run here. Shorten it."
        )


def check_length(n_tokens: int) -> None:
    """Refuse a prompt of too many tokens.

    Raises:
        PromptError: it is longer than allowed here.
    """
    limit = prompt_limit()
    if n_tokens > limit:
        raise PromptError(
            f"The prompt has {n_tokens:,} tokens; at most {limit:,} are traced here. Shorten it."
        )
