"""One pass over the model for batches of prompts that go through it together.

For each layer, all batches; so whatever reads weights reads each of them once a pass, however
many prompts there are. Where the weights are is the business of `grok.weights`.

Axes: L layers, B sequences, T tokens of this call, S cached positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok import forward
from grok.config import GrokConfig
from grok.modules import Cache
from grok.moe import Choice
from grok.passes import Forward, Head
from grok.progress import Watch
from grok.sites import EMBED, Place
from grok.visits import Visits
from grok.weights import Done, Ends, Layers, Part


@dataclass
class Batch:
    """Sequences of one padded length.

    Attributes:
        tokens: [B, T].
        start: position of the first of the T tokens.
        key_is_token: [B, S], False at padding.
        caches: of each layer, filled in place; None when no later call continues this one.
        candidates: next tokens to keep; with 0, and nothing wanted after the last layer, the
            pass ends with that layer and the logits are empty.
        visits: what changes and what is kept.
        real: [B, T], False at rows that only fill up; None: all count.
    """

    tokens: np.ndarray
    start: int
    key_is_token: np.ndarray
    caches: list[Cache] | None
    candidates: int
    visits: Visits
    real: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        """Token rows that count."""
        return int(self.tokens.size if self.real is None else self.real.sum())


class Engine:
    """Runs passes.

    Attributes:
        layers, ends: the weights.
    """

    def __init__(self, config: GrokConfig, dtype: str, layers: Layers, ends: Ends) -> None:
        self.config, self.dtype = config, dtype
        self.layers, self.ends = layers, ends

    def cache(self, batch: int, length: int) -> Cache:
        """An empty cache of one layer for sequences of `length` positions."""
        return forward.empty_cache(self.config, batch, length, jnp.dtype(self.dtype))

    def caches(self, batch: int, length: int) -> list[Cache]:
        """Empty caches of all layers."""
        return [self.cache(batch, length) for _ in range(self.config.n_layers)]

    def run(self, batches: Sequence[Batch]) -> list[Forward]:
        """All batches through all layers.

        Raises:
            GrokError: weights that cannot be read.
        """
        runs = [_Run(self, batch) for batch in batches]
        n_layers = self.config.n_layers
        watch = Watch(n_layers)
        rows = sum(batch.n_rows for batch in batches)
        with self.layers.walk(rows, 0, watch) as walk:
            for i in range(n_layers):
                for run, done in zip(runs, walk.layer(i, (r.part(i) for r in runs)), strict=True):
                    run.take(i, done)
            read = walk.bytes_read
        found = [run.finished() for run in runs]
        watch.tell(n_layers + 1, read)
        return found


class _Run:
    """A batch on its way."""

    def __init__(self, engine: Engine, batch: Batch) -> None:
        self._engine, self._batch = engine, batch
        self._where = np.int32(batch.start)
        self._keys = np.array(batch.key_is_token)
        self._captured: dict[Place, Any] = {}
        self._choices: list[Choice] = []
        self._h: Any = engine.ends.embed(batch.tokens, self._where, batch.visits.embed)
        self._capture(-1, {EMBED: self._h})
        # Without caches to keep, every layer writes into the same one.
        self._scratch = None if batch.caches else engine.cache(*batch.key_is_token.shape)

    def part(self, layer: int) -> Part:
        batch = self._batch
        return Part(
            self._h,
            self._where,
            self._keys,
            batch.caches[layer] if batch.caches else self._scratch,
            batch.visits.layer_edits(layer, self._captured),
            batch.visits.keep,
            batch.real,
        )

    def take(self, layer: int, done: Done) -> None:
        self._h, choice, cache, kept = done
        if self._batch.caches:
            self._batch.caches[layer] = cache
        else:
            self._scratch = cache
        self._choices.append(choice)
        self._capture(layer, kept)

    def _capture(self, layer: int, kept: Mapping[str, Any]) -> None:
        visits = self._batch.visits
        for site, value in kept.items():
            place = Place(layer, site)
            if place in visits.wanted or place in visits.referenced:
                self._captured[place] = value

    def finished(self) -> Forward:
        """What is left to compute after the last layer, and everything on the host."""
        batch, visits = self._batch, self._batch.visits
        if batch.candidates or visits.keep_head:
            head, kept = self._engine.ends.head(
                self._h,
                batch.candidates,
                self._where,
                visits.head_edits(self._captured),
                visits.keep_head,
            )
            self._capture(self._engine.config.n_layers, kept)
        else:
            none = np.zeros((*batch.tokens.shape, 0), np.float32)
            head = Head(none, none.astype(np.int32), none)  # type: ignore[arg-type]
        wanted = {place: self._captured[place] for place in visits.wanted}
        head, choices, wanted = jax.device_get((head, self._choices, wanted))
        k = max(choice.experts.shape[-1] for choice in choices)
        router_logits, router_probs, experts, gates = (
            np.stack(parts)
            for parts in zip(*(_padded(choice, k) for choice in choices), strict=True)
        )
        return Forward(
            logits=head.logits.astype(np.float32),
            router_logits=router_logits,
            router_probs=router_probs,
            experts=experts,
            gates=gates,
            candidates=head.candidates,
            candidate_probs=head.candidate_probs,
            kept=wanted,
        )


def _padded(choice: Choice, k: int) -> Choice:
    """The choice with `k` experts a token; -1 with a gate of 0 stands for none."""
    n_experts = choice.probs.shape[-1]
    experts = np.where(choice.experts < n_experts, choice.experts, -1)
    missing = k - experts.shape[-1]
    if missing:
        pad = [(0, 0)] * (experts.ndim - 1) + [(0, missing)]
        experts = np.pad(experts, pad, constant_values=-1)
        gates = np.pad(np.asarray(choice.gates), pad)
        return choice._replace(experts=experts, gates=gates)  # type: ignore[arg-type]
    return choice._replace(experts=experts)  # type: ignore[arg-type]
