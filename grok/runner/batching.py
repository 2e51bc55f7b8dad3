"""Several runs in one pass over the weights: of several prompts, or of one under several edits.

What reads weights from disk reads each of them once a pass, so runs that go together cost about
as much as one. How many go together is bounded by the logits that are held for all of them.

Axes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from grok.engine.compiled import bucket, padded
from grok.engine.engine import Batch
from grok.interventions.edits import NO_EDITS, Edits
from grok.interventions.hooks import no_hooks

if TYPE_CHECKING:
    import numpy as np

    from grok.architectures.architecture import Architecture
    from grok.engine.compiled import Forward
    from grok.runner.interfaces import Prompt
    from grok.runner.model import Model
    from grok.trace import RoutingTrace

# Padded tokens of a pass: logits of so many are held, 1.1 GB for a vocabulary of 131,072.
PASS_TOKENS = 2048


def passes_of(lengths: Sequence[int], pass_tokens: int = PASS_TOKENS) -> list[list[int]]:
    """Indexes of the runs that go together in each pass, in order; a long run goes alone.

    >>> passes_of([10, 20, 30], pass_tokens=48)   # padded to 16, 32 and 32
    [[0, 1], [2]]
    """
    found: list[list[int]] = []
    room = 0
    for i, length in enumerate(lengths):
        size = bucket(length)
        if not found or size > room:
            found.append([])
            room = pass_tokens
        found[-1].append(i)
        room -= size
    return found


def room(architecture: Architecture, budget: int | None) -> int:
    """Padded tokens that a pass with logits may have under a memory budget; None: no budget."""
    if budget is None:
        return PASS_TOKENS
    from grok.planning.modes import most_rows

    return min(PASS_TOKENS, most_rows(architecture, budget, logits=True))


def read_together(
    model: Model, runs: Sequence[tuple[np.ndarray, Edits]], candidates: int
) -> Iterator[Forward]:
    """The result of each run, in order, in as few passes as `passes_of` says.

    Args:
        runs: tokens [T] and the edits of that run alone.
        candidates: next tokens to keep.

    Raises:
        SiteError, InterventionError: edits that do not fit the model, before anything runs.
    """
    hooks = [model.hooks(tokens, edits) for tokens, edits in runs]
    most = room(model.engine.architecture, model.engine.layers.memory_budget)
    for members in passes_of([tokens.size for tokens, _ in runs], most):
        yield from model.engine.run(
            [model.batch(runs[i][0], hooks[i], candidates=candidates) for i in members]
        )


def read_batch(model: Model, prompts: Sequence[np.ndarray], candidates: int) -> list[Forward]:
    """The result of each of several prompts of one bucket, as one padded batch in one pass.

    A prompt gets the same bits wherever it stands in a batch of this size, whatever the others
    are; another size may round otherwise.

    Args:
        prompts: tokens [T] of each.
        candidates: next tokens to keep.

    Returns:
        Arrays with a batch axis of 1, as `Model.run_one`.
    """
    pad = model.engine.architecture.pad_token
    given, real, keys = padded(prompts, bucket(max(len(one) for one in prompts)), pad)
    hooks = no_hooks(model.config)
    batch = Batch(given, 0, keys, None, model.n_candidates(candidates), hooks, real)
    whole = model.engine.run([batch])[0]
    return [_row(whole, row) for row in range(len(prompts))]


def _row(whole: Forward, row: int) -> Forward:
    """One sequence of a batch; logits [B, T, V] and candidates begin with it, the rest with
    layers."""
    own = slice(row, row + 1)
    return whole._replace(
        logits=whole.logits[own],
        candidates=whole.candidates[own],
        candidate_probs=whole.candidate_probs[own],
        router_logits=whole.router_logits[:, own],
        router_probs=whole.router_probs[:, own],
        experts=whole.experts[:, own],
        gates=whole.gates[:, own],
        choice_values=None if whole.choice_values is None else whole.choice_values[:, own],
        beside_shared=None if whole.beside_shared is None else whole.beside_shared[:, own],
    )


def trace_together(
    model: Model, prompts: Sequence[Prompt], *, candidates: int = 10
) -> list[RoutingTrace]:
    """`Model.trace_routing` of several prompts, in as few passes as possible.

    Raises:
        PromptError: see `Model.encode`.
    """
    tokens = [model.encode(prompt) for prompt in prompts]
    found = read_together(model, [(one, NO_EDITS) for one in tokens], candidates)
    return [
        model.routing_trace([(one, result)], one.size, {"max_new_tokens": 0})
        for one, result in zip(tokens, found, strict=True)
    ]
