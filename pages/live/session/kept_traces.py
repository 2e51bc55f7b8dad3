"""The routing traces of this session, and the way to a new one.

Prompts and traces live in the session's state alone: not in the address, not in
a log, not in a cache that another session could read.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from grok.checkpoint import open_checkpoint
from grok.config import GrokConfig
from grok.errors import GrokError, PromptError
from lens import routing
from lens.routers import RouterSet
from lens.traces import Trace
from pages.parts import data_source
from pages.parts.layout import percent

LIMIT_VARIABLE = "GROK_LENS_MAX_PROMPT_TOKENS"
DEFAULT_LIMIT = 512
LONGEST_TEXT = 50_000  # characters the prompt box takes; the token limit comes on top
NO_PROMPT = "The prompt is empty. Type a text, or choose an example."
SLOTS = {"first": "Prompt", "second": "Second prompt", "file": "Saved trace"}


def prompt_limit() -> int:
    """Most tokens that a prompt may have here."""
    try:
        limit = int(os.environ.get(LIMIT_VARIABLE, ""))
    except ValueError:
        return DEFAULT_LIMIT
    return limit if limit > 0 else DEFAULT_LIMIT


def kept() -> dict[str, Any]:
    """The traces of this session, by slot."""
    traces = dict(st.session_state.get("traces", {}))
    saved = data_source.uploaded_trace()
    if saved is not None:
        traces["file"] = saved[1]
    return {slot: traces[slot] for slot in SLOTS if slot in traces}


def keep(slot: str, trace: Any) -> None:
    """Keep a trace for this session; None drops the one there was."""
    traces = st.session_state.setdefault("traces", {})
    if trace is None:
        traces.pop(slot, None)
    else:
        traces[slot] = trace


def shown() -> Trace | Any | None:
    """The trace looked at last, or None."""
    traces = kept()
    slot = st.session_state.get("trace_shown", "first")
    return traces.get(slot) or next(iter(traces.values()), None)


@dataclass(frozen=True)
class ModelChoice:
    """A checkpoint that prompts can be run on.

    Attributes:
        mode: "resident", or "streamed" from disk for every pass; see `stream_choice`.
        memory_budget: bytes that a streamed one may take.
        why: why it is streamed.
    """

    name: str
    path: str
    config: GrokConfig
    has_tokenizer: bool
    mode: str = "resident"
    memory_budget: int | None = None
    why: str = ""

    @property
    def streamed(self) -> bool:
        """Whether every pass reads the weights from disk."""
        return self.mode == "streamed"


def model_choices() -> dict[str, ModelChoice]:
    """The configured checkpoint, if it can be opened, and the bundled model."""
    found = {}
    named = data_source.configured().checkpoint
    paths = [("checkpoint", "Configured checkpoint", named)] if named else []
    paths.append(("bundled", "Bundled model", str(data_source.bundled_checkpoint())))
    for key, name, path in paths:
        try:
            checkpoint = open_checkpoint(path)
        except GrokError as error:
            st.error(str(error), icon=":material/error:")
            continue
        found[key] = ModelChoice(
            name, str(path), checkpoint.config, checkpoint.tokenizer_file is not None
        )
    return found


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
    """How a prompt is to be run."""

    model: ModelChoice
    dtype: str


def run_all(
    request: Request,
    texts: Sequence[str],
    on_wait: Callable[[int], object],
    on_load: Callable[[int, int], None],
) -> list[Any]:
    """The traces of prompts, by the model that all sessions share; together in one turn.

    Args:
        request: the model and the dtype.
        texts: the prompts, or token ids where the model has no tokenizer.
        on_wait: told how many prompts are ahead.
        on_load: told how many of the model's tensors have been read.

    Raises:
        GrokError: a prompt or the model cannot be used; the text says why.
    """
    if not all(text.strip() for text in texts):  # before a model is read for nothing
        raise PromptError(NO_PROMPT)
    model = shared(request.model, request.dtype, on_load)
    prompts = [encoded(model, request.model, text) for text in texts]
    return model.trace_all(prompts, on_wait=on_wait)


def encoded(model: Any, choice: ModelChoice, text: str) -> np.ndarray:
    """The token ids [T] of a typed text, or the ids typed where there is no tokenizer.

    Raises:
        PromptError: there is no text, it is no prompt for this model, or longer than allowed.
    """
    if not text.strip():
        raise PromptError(NO_PROMPT)
    prompt = model.model.encode(text if choice.has_tokenizer else token_ids(text))
    check_length(len(prompt))
    return prompt


def check_length(n_tokens: int) -> None:
    """Refuses a prompt of too many tokens.

    Raises:
        PromptError: it is longer than allowed here.
    """
    limit = prompt_limit()
    if n_tokens > limit:
        raise PromptError(
            f"The prompt has {n_tokens:,} tokens; at most {limit:,} are traced here. Shorten "
            f"it, or start the app with a larger {LIMIT_VARIABLE}."
        )


def shared(choice: ModelChoice, dtype: str, on_load: Callable[[int, int], None]) -> Any:
    """The `grok.cached.SharedModel` of all sessions.

    It is read in another thread while this one shows how far that is.

    What a cached function draws is replayed to everybody who gets its result, so the
    progress must not be drawn from inside it.
    """
    from grok.cached import shared_model

    read: list[tuple[int, int]] = []
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        model = pool.submit(
            shared_model,
            choice.path,
            dtype,
            choice.mode,
            choice.memory_budget,
            _progress=lambda done, total: read.append((done, total)),
        )
        while not wait([model], timeout=0.1).done:
            if read:
                on_load(*read[-1])
        found = model.result()
        if read:  # so that whoever shows it knows that it is over
            on_load(read[-1][1], read[-1][1])
        return found
    finally:
        pool.shutdown(wait=False)


def file_bytes(trace: Any) -> bytes:
    """The trace as an .npz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.npz"
        trace.save(path)
        return path.read_bytes()


def labels(trace: Any, routers: RouterSet) -> list[str]:
    """Names of the trace's layers: the routers' own where these made the trace."""
    n_layers = trace.router_logits.shape[0]
    if trace.model_sha256 == routers.sha256:
        return [routers.label(layer) for layer in range(n_layers)]
    return [f"L{layer}" for layer in range(n_layers)]


def finding(trace: Any, names: list[str]) -> str:
    """What stands out in the routing of a text, beside what chance gives."""
    n_layers, n_tokens, n_experts = trace.router_logits.shape
    top_k = trace.experts.shape[2]
    load = routing.load(trace)
    low, high = routing.load_interval(n_tokens, top_k, n_experts, comparisons=load.size)
    layer, expert = np.unravel_index(np.argmax(load), load.shape)
    most = float(load[layer, expert])
    verdict = "more than" if most > high else "not distinguishable from"
    text = (
        f"Of {n_tokens:,} tokens, {names[layer]}·E{expert} took the largest share, "
        f"{percent(most)} of its layer's assignments: {verdict} chance (even "
        f"{percent(1 / n_experts, 1)}; by chance no expert above {percent(high)} in 95\u00a0% of "
        "texts)."
    )
    if n_tokens > 1:
        repeat = routing.repeat_rate(trace)
        text += (
            f" Neighbouring tokens share their first expert in {percent(repeat.first.mean())} "
            f"of cases (chance {percent(repeat.chance_first, 1)}; same tokens shuffled "
            f"{percent(repeat.shuffled_first.mean())})."
        )
    return text
