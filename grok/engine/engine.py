"""One pass over the model for batches of prompts that go through it together.

For each layer, all batches; so whatever reads weights reads each of them once a pass, however
many prompts there are. Where the weights are is the business of `grok.engine.resident`.

Axes: L layers, B sequences, T tokens of this call, S cached positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.architecture import Architecture, Cache
from grok.architectures.moe import Choice
from grok.config import ModelConfig
from grok.engine.compiled import Forward, Head
from grok.engine.interfaces import Done, EmbedUnembed, Layers, Part
from grok.engine.progress import Watch
from grok.interventions.hooks import Hooks
from grok.interventions.sites import EMBED, LAYER_SITES, HookPoint, row_bytes


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
        hooks: what changes and what is kept.
        real: [B, T], False at rows that only fill up; None: all count.
    """

    tokens: np.ndarray
    start: int
    key_is_token: np.ndarray
    caches: list[Cache] | None
    candidates: int
    hooks: Hooks
    real: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        """Token rows that count."""
        return int(self.tokens.size if self.real is None else self.real.sum())

    def kept_bytes(self, config: ModelConfig) -> int:
        """Bytes of caches and values that are kept until the pass is over."""
        caches = sum(leaf.nbytes for leaf in jax.tree.leaves(self.caches))
        points = self.hooks.wanted | self.hooks.referenced
        return caches + self.tokens.size * row_bytes(config, points)


class Keeper(Protocol):
    """Makes the place where a pass keeps its state."""

    def of_pass(self, batches: Sequence[Batch]) -> Kept | None: ...


class Kept(Protocol):
    """State of one pass; see `grok.streaming.resume.Kept`."""

    def load(self) -> list[list[np.ndarray]] | None: ...

    def save(
        self, layer: int, given: Sequence[np.ndarray], streams: Sequence[np.ndarray]
    ) -> None: ...

    def remove(self) -> None: ...


class Engine:
    """Runs passes.

    Attributes:
        architecture: the model's arithmetic; config: its sizes.
        layers, embed_unembed: the weights.
        keeper: keeps what each layer gave, so that a pass can go on after a crash; or None.
        tells: whether a pass is long enough to tell of every layer.
    """

    def __init__(
        self,
        architecture: Architecture,
        dtype: str,
        layers: Layers,
        embed_unembed: EmbedUnembed,
        *,
        keeper: Keeper | None = None,
        tells: bool = False,
    ) -> None:
        self.architecture, self.config = architecture, architecture.config
        self.dtype = dtype
        self.layers, self.embed_unembed = layers, embed_unembed
        self.keeper, self.tells = keeper, tells

    def cache(self, batch: int, length: int) -> Cache:
        """An empty cache of one layer for sequences of `length` positions."""
        return self.architecture.empty_cache(batch, length, jnp.dtype(self.dtype))

    def caches(self, batch: int, length: int) -> list[Cache]:
        """Empty caches of all layers."""
        return [self.cache(batch, length) for _ in range(self.config.n_layers)]

    def choice_of(self, layer: int, arrays: Iterator[np.ndarray]) -> Choice | None:
        """A layer's choice of the arrays that it was kept as; None without experts."""
        architecture = self.architecture.at(layer)
        if "router.logits" not in architecture.layer_sites:
            return None
        there = [True] * 4 + [
            architecture.has_choice_values,
            "moe.shared" in architecture.layer_sites,
        ]
        return Choice._make(next(arrays) if one else None for one in there)

    def run(self, batches: Sequence[Batch]) -> list[Forward]:
        """All batches through all layers.

        Raises:
            GrokError: weights that cannot be read, or state that cannot be kept.
        """
        runs = [_Run(self, batch) for batch in batches]
        n_layers = self.config.n_layers
        kept = self.keeper.of_pass(batches) if self.keeper is not None else None
        first = _restored(runs, kept.load()) if kept is not None else 0
        watch = Watch(n_layers, first)
        rows = sum(batch.n_rows for batch in batches)
        n_padded = sum(batch.tokens.size for batch in batches)
        kept_bytes = sum(batch.kept_bytes(self.config) for batch in batches)
        logits = any(batch.candidates or batch.hooks.keep_head for batch in batches)
        told = watch if self.tells else None
        with self.layers.walk(
            rows, first, told, logits=logits, n_padded=n_padded, kept_bytes=kept_bytes
        ) as walk:
            for i in range(first, n_layers):
                given = walk.layer(i, (run.part(i) for run in runs))
                for run, done in zip(runs, given, strict=True):
                    run.take(i, done)
                if kept is not None:
                    parts = [array for run in runs for array in run.given(i)]
                    kept.save(i, parts, [np.asarray(run.h) for run in runs])
                if self.tells:
                    watch.tell(i + 1, walk.bytes_read)
            read = walk.bytes_read
        found = [run.finished() for run in runs]
        if kept is not None:
            kept.remove()
        watch.tell(n_layers + 1, read)
        return found


def _restored(runs: Sequence[_Run], state: list[list[np.ndarray]] | None) -> int:
    """Puts kept state into the runs; returns the number of layers it stands for."""
    if state is None:
        return 0
    *layers, streams = state
    for i, arrays in enumerate(layers):
        left = iter(arrays)
        for run in runs:
            run.restore(i, left)
    for run, stream in zip(runs, streams, strict=True):
        run.h = stream
    return len(layers)


class _Run:
    """A batch on its way."""

    def __init__(self, engine: Engine, batch: Batch) -> None:
        self._engine, self._batch = engine, batch
        self._where = np.int32(batch.start)
        self._keys = np.array(batch.key_is_token)
        self._captured: dict[HookPoint, Any] = {}
        self._choices: list[Choice | None] = []
        self.h: Any = engine.embed_unembed.embed(batch.tokens, self._where, batch.hooks.embed)
        self._capture(-1, {EMBED: self.h})

    def part(self, layer: int) -> Part:
        batch = self._batch
        # Without caches to keep, each layer has its own, which goes when the layer is done.
        own = batch.caches[layer] if batch.caches else None
        return Part(
            self.h,
            self._where,
            self._keys,
            own or self._engine.cache(*batch.key_is_token.shape),
            batch.hooks.layer_edits(layer, self._captured),
            batch.hooks.keep,
            batch.real,
        )

    def take(self, layer: int, done: Done) -> None:
        self.h, choice, cache, kept = done
        if self._batch.caches:
            self._batch.caches[layer] = cache
        self._choices.append(choice)
        self._capture(layer, kept)

    def given(self, layer: int) -> list[np.ndarray]:
        """What `layer` gave: choice, values of hook points, and the cache where it is kept."""
        choice = self._choices[layer]
        found: list[Any] = [one for one in choice or () if one is not None]
        found += [self._captured[point] for point in self._points(layer)]
        found += jax.tree.leaves(self._batch.caches[layer]) if self._batch.caches else []
        return [np.asarray(one) for one in jax.device_get(found)]

    def restore(self, layer: int, arrays: Iterator[np.ndarray]) -> None:
        """Takes what `given` gave in an earlier run."""
        self._choices.append(self._engine.choice_of(layer, arrays))
        for point in self._points(layer):
            self._captured[point] = next(arrays)
        if self._batch.caches:
            leaves, tree = jax.tree.flatten(self._batch.caches[layer])
            filled = [jax.device_put(next(arrays)) for _ in leaves]
            self._batch.caches[layer] = jax.tree.unflatten(tree, filled)

    def _points(self, layer: int) -> list[HookPoint]:
        hooks = self._batch.hooks
        wanted = hooks.wanted | hooks.referenced
        return sorted(p for p in wanted if p.layer == layer and p.site in LAYER_SITES)

    def _capture(self, layer: int, kept: Mapping[str, Any]) -> None:
        hooks = self._batch.hooks
        for site, value in kept.items():
            point = HookPoint(layer, site)
            if point in hooks.wanted or point in hooks.referenced:
                self._captured[point] = value

    def finished(self) -> Forward:
        """What is left to compute after the last layer, and everything on the host."""
        batch, hooks = self._batch, self._batch.hooks
        if batch.candidates or hooks.keep_head:
            head, kept = self._engine.embed_unembed.head(
                self.h,
                batch.candidates,
                self._where,
                hooks.head_edits(self._captured),
                hooks.keep_head,
            )
            self._capture(self._engine.config.n_layers, kept)
        else:
            none = np.zeros((*batch.tokens.shape, 0), np.float32)
            head = Head(none, none.astype(np.int32), none)  # type: ignore[arg-type]
        wanted = {point: self._captured[point] for point in hooks.wanted}
        taken = [choice for choice in self._choices if choice is not None]
        head, choices, wanted = jax.device_get((head, taken, wanted))
        values = [choice.values for choice in choices if choice.values is not None]
        beside = [choice.beside for choice in choices if choice.beside is not None]
        k = max(choice.experts.shape[-1] for choice in choices)
        router_logits, router_probs, experts, gates = (
            np.stack(parts)
            for parts in zip(*(_padded(choice, k)[:4] for choice in choices), strict=True)
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
            choice_values=np.stack(values) if values else None,
            beside_shared=np.stack(beside) if beside else None,
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
