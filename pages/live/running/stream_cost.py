"""Cost of a run of a streamed model: its passes over the weights, their time and bytes.

Each kind of run has a function here that says what it does to the model; `cost` makes an
estimate of that, from the rates that were measured on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from grok.architectures.families import open_checkpoint
from grok.errors import GrokError, PromptError
from grok.planning.modes import head_operations, limit
from grok.units import size
from lens.traces import RoutedText
from pages.live.running.stream_choice import (
    about,
    fitting_plan,
    memory_budget,
    rates,
    streamed_plan,
)
from pages.live.session import prompts
from pages.live.session.shared_models import ModelChoice

if TYPE_CHECKING:
    from grok.checkpoints.tokenizer import Tokenizer

QUICK = 5.0  # seconds that a run may take to be made without being asked for


@dataclass(frozen=True)
class Work:
    """Passes that a run makes over the model.

    Attributes:
        passes: tokens that go through all layers together, one number a pass.
        new_tokens: tokens generated after that, each with a pass of its own.
        held: tokens of the largest pass that are in the model at once, where not all are.
        unembedded: tokens whose logits are made besides those of the passes.
        fills: whether passes are as large as the budget allows.
    """

    passes: tuple[int, ...]
    new_tokens: int = 0
    held: int | None = None
    unembedded: int = 0
    fills: bool = False

    @property
    def n_passes(self) -> int:
        """Passes in all; the last pass over a text gives the first new token."""
        return len(self.passes) + max(self.new_tokens - 1, 0)


@dataclass(frozen=True)
class Cost:
    """An estimate; it rests on rates that were measured for about two seconds.

    Attributes:
        seconds: of the whole run; None where a rate was not measured.
        bytes_read: of the whole run.
        memory_bytes: that it takes at most.
        budget: bytes that it may take.
        a_pass: seconds of one pass.
        binds: what limits it.
        work: what it is the cost of.
    """

    seconds: float | None
    bytes_read: float
    memory_bytes: int
    budget: int
    a_pass: float | None
    binds: str
    work: Work

    @property
    def about(self) -> str:
        """The time, in words."""
        return about(self.seconds)


def cost(choice: ModelChoice, work: Work) -> Cost:
    """Time, bytes and memory of a run of a streamed model.

    Raises:
        GrokError: no budget like this holds so many tokens.
    """
    budget = choice.memory_budget or memory_budget()
    held = fitting_plan(choice, work.held or max(work.passes))
    plans = {n: streamed_plan(choice, n) for n in set(work.passes)}
    most = plans[max(plans)]
    each = [plans[n] for n in work.passes]
    after = max(work.new_tokens - 1, 0)
    found = rates(choice)
    seconds = a_pass = None
    times = [one.seconds_per_pass for one in each if one.seconds_per_pass is not None]
    a_token = most.seconds_per_token if after else 0.0
    if len(times) == len(each) and a_token is not None and found.flops is not None:
        a_pass = max(times)
        seconds = sum(times) + after * a_token
        seconds += head_operations(choice.architecture, work.unembedded) / found.flops
    return Cost(
        seconds=seconds,
        bytes_read=sum(one.read_bytes_per_pass for one in each) + after * most.read_bytes_per_token,
        memory_bytes=budget if work.fills else held.memory_bytes,
        budget=budget,
        a_pass=a_pass,
        binds=limit(most.binds, found),
        work=work,
    )


def token_counts(choice: ModelChoice, texts: Sequence[str]) -> list[int]:
    """Tokens of typed texts; no model is loaded for it.

    Raises:
        PromptError: a text is empty, no prompt for this model, or longer than allowed.
    """
    found = []
    for text in texts:
        prompts.check_text(text)
        if choice.has_tokenizer:
            count = len(_tokenizer(choice.path).encode(text))
        else:
            count = len(prompts.token_ids(text))
        prompts.check_length(count)
        found.append(count)
    return found


def together(choice: ModelChoice, texts: Sequence[str]) -> Work:
    """Texts that go through the model together, in as few passes as hold them.

    Raises:
        PromptError: see `token_counts`.
    """
    return Work(_passes(choice, token_counts(choice, texts)))


def _passes(choice: ModelChoice, counts: Sequence[int]) -> tuple[int, ...]:
    """Tokens of each pass that runs of so many tokens make."""
    from grok.runner.batching import passes_of, room

    members = passes_of(counts, room(choice.architecture, choice.memory_budget or memory_budget()))
    return tuple(sum(counts[i] for i in own) for own in members)


def changed(choice: ModelChoice, text: str, n_changes: int, n_paired: int = 0) -> Work:
    """A text as it is and under changes, in as few passes as hold them.

    Args:
        n_paired: changes made once those are known, each in one pass with the text as it is.

    Raises:
        PromptError: see `token_counts`.
    """
    (n,) = token_counts(choice, [text])
    last = _passes(choice, [n, n])
    return Work((*_passes(choice, [n] * (1 + n_changes)), *last * n_paired))


def swept(choice: ModelChoice, texts: Sequence[str], runs: int) -> Work:
    """A sweep of many runs that part from the first text at all layers alike.

    They go through half the layers each, on average. As many share a pass as the budget holds.

    Args:
        texts: the prompt, and others that are run as they are besides.

    Raises:
        PromptError: see `token_counts`.
    """
    from grok.planning.modes import most_rows

    counts = token_counts(choice, texts)
    n, budget = counts[0], choice.memory_budget or memory_budget()
    most = max(2, most_rows(choice.architecture, budget) // n) - 1
    passes = [n + min(most, runs - done) * n // 2 for done in range(0, runs, most)]
    return Work((*counts, *passes), held=max(counts), fills=True, unembedded=runs * n)


def collected(choice: ModelChoice, texts: Sequence[str]) -> Work:
    """Many prompts, which share a pass as far as a part of a run goes.

    Raises:
        PromptError: see `token_counts`.
    """
    from grok.experiments.collecting import BATCH_TOKENS
    from grok.experiments.collection import PART_TOKENS
    from grok.planning.modes import most_rows

    total = sum(token_counts(choice, texts))
    budget = choice.memory_budget or memory_budget()
    part = max(1, min(PART_TOKENS, most_rows(choice.architecture, budget)))
    passes = [min(part, total - done) for done in range(0, total, part)]
    return Work(tuple(passes), held=min(total, BATCH_TOKENS), fills=total > BATCH_TOKENS)


def lens(choice: ModelChoice, trace: RoutedText) -> Work:
    """The logit lens of a trace."""
    n_tokens = len(trace.tokens)
    return Work((n_tokens,), unembedded=choice.config.n_layers * n_tokens)


@st.cache_resource(max_entries=4, show_spinner=False)
def _tokenizer(path: str) -> Tokenizer:
    from grok.checkpoints.tokenizer import open_tokenizer

    checkpoint = open_checkpoint(path)
    if checkpoint.tokenizer_file is None:
        raise PromptError("This model has no tokenizer.")
    return open_tokenizer(checkpoint.tokenizer_file, checkpoint.config.vocab_size)


def needs_asking(choice: ModelChoice, work: Work) -> bool:
    """True where a run takes too long here to be made without being asked for."""
    from grok.serving.shared_model import STREAMED

    if not choice.streamed:
        return False
    try:
        seconds = cost(choice, work).seconds
        return STREAMED.n_callers > 0 or seconds is None or seconds > QUICK
    except GrokError:
        return True  # asked for, it says why it cannot run


def cost_words(cost: Cost) -> str:
    """Cost of a run, in a line."""
    n, tokens = cost.work.n_passes, max(cost.work.passes)
    passes = "1 pass over the weights" if n == 1 else f"{n:,} passes over the weights"
    return (
        f"**{cost.about.capitalize()}**, limited by {cost.binds} · "
        f"{tokens:,} {'token' if tokens == 1 else 'tokens'}, {passes} · reads "
        f"{size(cost.bytes_read)} · takes up to {size(cost.memory_bytes)} of memory, of a budget "
        f"of {size(cost.budget)}"
    )
