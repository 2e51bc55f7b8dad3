"""Results of generating: a step for each token, and the whole continuation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from grok.config import ModelConfig
from grok.engine.compiled import Forward
from grok.trace import RoutingTrace


class Step(NamedTuple):
    """One generated token, and the routing of the tokens that were read to choose it.

    Attributes:
        token: the id.
        piece: its piece.
        read: the tokens read in this step [T]: the prompt at first, then one.
        routing: their routing, batch axis of 1.
    """

    token: int
    piece: str
    read: np.ndarray
    routing: Forward


@dataclass(frozen=True)
class Generation:
    """A continuation.

    Attributes:
        new_tokens: generated ids, the end-of-sequence token included when it came.
        text: their text; ids separated by spaces when there is no tokenizer.
        trace: routing of the prompt and of all generated tokens but the last, which the
            model never read.
    """

    new_tokens: list[int]
    text: str
    trace: RoutingTrace


class NamedPieces(Protocol):
    """What puts results together needs of a model, wherever it is."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def score(self) -> str: ...

    @property
    def plain_gates(self) -> bool: ...

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def pieces(self, tokens: np.ndarray, *, apart: bool = False) -> list[str]: ...

    def text(self, tokens: Sequence[int]) -> str: ...


def pieces_apart(model: NamedPieces, ids: np.ndarray) -> np.ndarray:
    """The piece of each id by itself, texts in an array of their shape; looked up once."""
    known, place = np.unique(ids, return_inverse=True)
    return np.array(model.pieces(known, apart=True), dtype=np.str_)[place].reshape(ids.shape)


def generation_of(
    model: NamedPieces, steps: Sequence[Step], options: Mapping[str, Any]
) -> Generation:
    """The `Generation` of the steps of one `stream`, which was given these options."""
    new = [step.token for step in steps]
    settings = {k: v for k, v in options.items() if k not in ("edits", "wanted")}
    if options.get("edits"):
        settings["interventions"] = options["edits"].texts()
    passes = [(step.read, step.routing) for step in steps]
    trace = routing_trace_of(model, passes, steps[0].read.size, settings)
    return Generation(new, model.text(new), trace)


def routing_trace_of(
    model: NamedPieces,
    passes: Sequence[tuple[np.ndarray, Forward]],
    prompt_length: int,
    settings: Mapping[str, Any],
) -> RoutingTrace:
    """The routing of the passes of one run, put together and without padding.

    Args:
        model: that ran them.
        passes: the tokens that each pass read, and its result.
        prompt_length: tokens of the prompt.
        settings: of the run.
    """
    tokens = np.concatenate([read for read, _ in passes])

    def joined(name: str, axis: int) -> np.ndarray:
        parts = []
        for read, routing in passes:
            one = np.take(getattr(routing, name), 0, axis=axis - 1)  # the only sequence
            parts.append(np.take(one, np.arange(read.size), axis=axis - 1))
        return np.concatenate(parts, axis=axis - 1)

    def joined_if_there(name: str) -> np.ndarray | None:
        there = all(getattr(routing, name) is not None for _, routing in passes)
        return joined(name, 2) if there else None

    moe_layers = np.array(model.config.moe_layers, np.int32)
    candidates = joined("candidates", 1)
    return RoutingTrace(
        tokens=tokens,
        pieces=np.array(model.pieces(tokens), dtype=np.str_),
        prompt_length=prompt_length,
        router_logits=joined("router_logits", 2),
        router_probs=joined("router_probs", 2),
        experts=joined("experts", 2),
        gates=joined("gates", 2),
        candidates=candidates,
        candidate_probs=joined("candidate_probs", 1),
        candidate_pieces=pieces_apart(model, candidates),
        model_sha256=model.sha256,
        settings={"model": model.name, "dtype": model.dtype, **settings},
        layer_ids=None if moe_layers.size == model.config.n_layers else moe_layers,
        score=model.score,
        plain_gates=model.plain_gates,
        choice_values=joined_if_there("choice_values"),
        beside_shared=joined_if_there("beside_shared"),
    )
