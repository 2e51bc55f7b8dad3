"""A step that touches only active features: the same numbers as the dense one, for processors.

Of 2,048 features some 16 are active in a token. Encoding has to look at all of them; decoding and
both gradients don't, and are most of a dense step's products. On accelerators dense products win.

Axes: S sites read, M sites written, G groups, B tokens, F features, D width, N active pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grok.dictionaries.kinds.design import Design
from grok.dictionaries.kinds.parameters import decoder_norms, encode
from grok.dictionaries.training.losses import Batch, Parts
from grok.dictionaries.training.settings import Settings
from grok.dictionaries.training.sparse import kernels
from grok.dictionaries.training.update import (
    Constants,
    State,
    Step,
    advanced,
    annealed,
    in_units,
)
from grok.engine.sharding import processors

SMALLEST = np.float32(np.finfo(np.float32).tiny)
BELOW_GUESS = np.float32(0.9)


def serves(design: Design, settings: Settings) -> bool:
    """Whether a run can take these steps: on a processor, `batch_topk`, no further terms."""
    loss = settings.loss
    plain = loss.penalty == "none" and not loss.pre_activation and not loss.routing
    on_cpu = jax.default_backend() == "cpu"
    return on_cpu and plain and settings.activation.function == "batch_topk" and not design.skip


class Pairs(NamedTuple):
    """Active features of a group: starts of each token's [B + 1], features and values [N]."""

    starts: np.ndarray
    features: np.ndarray
    values: np.ndarray


class _Candidates(NamedTuple):
    starts: np.ndarray
    features: np.ndarray
    gated: np.ndarray


@dataclass(frozen=True)
class _Work:
    """What one step works on: pre-activations and gates by group, and threads."""

    design: Design
    threads: ThreadPoolExecutor
    n_threads: int

    def each(self, task: Callable[[int], Any], n: int) -> list[Any]:
        """The results of a task for 0 to n − 1, shared out among threads."""
        return list(self.threads.map(task, range(n)))

    def largest(
        self,
        pre: Sequence[np.ndarray],
        gates: Sequence[np.ndarray],
        count: int,
        guess: float,
        allowed: np.ndarray,
    ) -> tuple[list[Pairs], np.float32]:
        """The `count` largest positive gated values of all groups, and the smallest of them.

        Of equal ones the first in the order group, token, feature are kept.
        """

        def above(bar: np.float32) -> list[_Candidates]:
            return self.each(lambda g: _candidates(pre[g], gates[g], bar, allowed[g]), len(pre))

        bar = max(SMALLEST, np.float32(guess) * BELOW_GUESS)
        found = above(bar)
        if sum(len(one.gated) for one in found) < count and bar > SMALLEST:
            found = above(SMALLEST)
        return _kept(found, pre, count)

    def largest_apart(
        self,
        pre: Sequence[np.ndarray],
        gates: Sequence[np.ndarray],
        count: int,
        guesses: np.ndarray,
        allowed: np.ndarray,
    ) -> tuple[list[Pairs], np.ndarray]:
        """As `largest`, of each group alone; levels are [G]."""

        def of(g: int) -> tuple[Pairs, np.float32]:
            bar = max(SMALLEST, np.float32(guesses[g]) * BELOW_GUESS)
            found = _candidates(pre[g], gates[g], bar, allowed[g])
            if len(found.gated) < count and bar > SMALLEST:
                found = _candidates(pre[g], gates[g], SMALLEST, allowed[g])
            pairs, level = _kept([found], pre[g : g + 1], count)
            return pairs[0], level

        pairs, levels = zip(*self.each(of, len(pre)), strict=True)
        return list(pairs), np.array(levels, np.float32)

    def decoded(self, out: np.ndarray, pairs: Sequence[Pairs], decoders: Sequence[Any]) -> None:
        """Adds what all groups write to `out` [B, M·D]."""
        cuts = np.linspace(0, len(out), self.n_threads + 1).astype(int)

        def some(part: int) -> None:
            for group, own, w in zip(self.design.groups, pairs, decoders, strict=True):
                offset = group.writes[0] * self.design.d_model
                kernels.add_decoded(out, cuts[part], cuts[part + 1], *own, w, offset)

        self.each(some, self.n_threads)

    def add_gradients(
        self,
        into: _Gradients,
        given: np.ndarray,
        x: Sequence[np.ndarray],
        pairs: Sequence[Pairs],
        decoders: Sequence[Any],
    ) -> None:
        """Adds the gradients of decoders and encoders, of that of the output [B, M·D]."""

        def of(g: int) -> None:
            own, offset = pairs[g], self.design.groups[g].writes[0] * self.design.d_model
            back = kernels.to_values(given, own.starts, own.features, decoders[g], offset)
            firsts, order, tokens = kernels.by_feature(
                own.starts, own.features, self.design.features
            )
            kernels.add_outer(into.decoder[g], firsts, order, tokens, own.values, given, offset)
            kernels.add_outer(into.encoder[g], firsts, order, tokens, back, x[g], 0)
            kernels.summed(into.encoder_bias[g], own.features, back)

        self.each(of, len(pairs))


class _Gradients(NamedTuple):
    """decoder: [F, W·D] of each group; encoder: [F, R·D] of each; encoder_bias: [G, F]."""

    decoder: list[np.ndarray]
    encoder: list[np.ndarray]
    encoder_bias: np.ndarray

    @classmethod
    def zeros(cls, design: Design) -> _Gradients:
        f, d, groups = design.features, design.d_model, design.groups
        return cls(
            [np.zeros((f, len(group.writes) * d), np.float32) for group in groups],
            [np.zeros((f, len(group.reads) * d), np.float32) for group in groups],
            np.zeros((len(groups), f), np.float32),
        )


def _candidates(
    pre: np.ndarray, gate: np.ndarray, bar: np.float32, allowed: np.ndarray
) -> _Candidates:
    """Pairs of a group whose gated value reaches a bar."""
    n = kernels.count_above(pre, gate, bar, allowed)
    starts = np.concatenate([[0], np.cumsum(n)])
    return _Candidates(starts, *kernels.take_above(pre, gate, bar, allowed, starts))


def _kept(
    found: Sequence[_Candidates], pre: Sequence[np.ndarray], count: int
) -> tuple[list[Pairs], np.float32]:
    """The `count` largest of candidates, and the smallest of them; see `_Work.largest`."""
    every = np.concatenate([one.gated for one in found])
    level = SMALLEST
    if len(every) > count:
        level = np.partition(every, len(every) - count)[len(every) - count]
    left = count - int((every > level).sum())
    pairs = []
    for one, own in zip(found, pre, strict=True):
        ties = one.gated == level
        keep = (one.gated > level) | (ties & (np.cumsum(ties) <= left))
        left = max(0, left - int(ties.sum()))
        pairs.append(_filtered(one, keep, own))
    return pairs, level


def _filtered(one: _Candidates, keep: np.ndarray, pre: np.ndarray) -> Pairs:
    """The pairs to keep, with their pre-activations for values."""
    n = np.concatenate([[0], np.cumsum(keep)])
    features = one.features[keep]
    starts = n[one.starts]
    tokens = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return Pairs(starts, features, pre[tokens, features])


@partial(jax.jit, static_argnames=("design", "gated"))
def _encoded(design: Design, gated: bool, params: Any, batch: Batch, constants: Constants) -> Any:
    """Pre-activations, gates, what groups read [B, R·D] and what is to be written [B, M·D]."""
    x, y = in_units(batch.x, constants.reads), in_units(batch.y, constants.writes)
    pre = encode(design, params, x, batch.chosen)
    norms = decoder_norms(params)
    gates = norms if gated else [jnp.ones_like(norm) for norm in norms]
    read = [jnp.concatenate([x[s] for s in group.reads], axis=1) for group in design.groups]
    target = jnp.moveaxis(y, 0, 1) - params["decoder_bias"]
    return pre, gates, read, target.reshape(target.shape[0], -1)


def make_sparse_step(design: Design, settings: Settings) -> Step:
    """A (state, batch as the model has it, constants) -> (state, numbers)."""
    n_threads = processors()
    work = _Work(design, ThreadPoolExecutor(n_threads), n_threads)
    gated = settings.activation.gate_by_norm

    def step(state: State, batch: Batch, constants: Constants) -> tuple[State, Parts]:
        found = _encoded(design, gated, state.params, batch, constants)
        pre, gates, read, target = jax.tree.map(np.asarray, found)
        decoders = [np.asarray(w).reshape(design.features, -1) for w in state.params["decoder"]]
        budget, _ = annealed(settings, state.step)
        guesses = np.asarray(state.last)
        dead = np.asarray(state.idle) > settings.training.dead_window
        pairs, levels = _selected(work, settings, pre, gates, float(budget), guesses)
        shape = (len(target), len(design.targets), design.d_model)
        error = np.zeros_like(target)
        work.decoded(error, pairs, decoders)
        np.subtract(target, error, out=error)
        denominators = np.asarray(constants.held.denominators)
        relative = np.square(error).reshape(shape).sum(-1).mean(0) / denominators
        weight = np.float32(-2 / (shape[0] * shape[1])) / denominators
        given = (error.reshape(shape) * weight[:, None]).reshape(error.shape)
        grads = _Gradients.zeros(design)
        work.add_gradients(grads, given, read, pairs, decoders)
        extra = np.float32(0)
        if settings.loss.auxiliary and dead.any():
            extra = _add_auxiliary(work, settings, grads, pre, read, error, dead, decoders)
        fired = np.zeros((len(pairs), design.features), bool)
        for own, one in zip(fired, pairs, strict=True):
            own[one.features] = True
        active = np.array([len(one.values) for one in pairs], np.float32) / shape[0]
        numbers = (relative, active, fired, levels, np.float32(0), extra)
        parts = Parts(*map(jnp.asarray, numbers))
        tree = _as_params(design, grads, given.reshape(shape).sum(0))
        return advanced(settings, state, tree, fired, levels, shape[0]), parts

    return step


def _selected(
    work: _Work,
    settings: Settings,
    pre: Sequence[np.ndarray],
    gates: Sequence[np.ndarray],
    budget: float,
    guesses: np.ndarray,
) -> tuple[list[Pairs], np.ndarray]:
    """Active pairs of each group, and their levels [G]."""
    n, tokens = len(pre), len(pre[0])
    every = np.ones((n, pre[0].shape[1]), bool)
    if settings.activation.pooled:
        count = round(budget * tokens * n)
        pairs, level = work.largest(pre, gates, count, float(guesses[0]), every)
        return pairs, np.full(n, level, np.float32)
    return work.largest_apart(pre, gates, round(budget * tokens), guesses, every)


def _add_auxiliary(
    work: _Work,
    settings: Settings,
    grads: _Gradients,
    pre: Sequence[np.ndarray],
    read: Sequence[np.ndarray],
    error: np.ndarray,
    dead: np.ndarray,
    decoders: Sequence[Any],
) -> np.float32:
    """Adds the gradients of `grok.dictionaries.training.losses.auxiliary_of`; gives its value."""
    loss, design = settings.loss, work.design
    n = max(1, round(loss.auxiliary_share * len(error)))
    shape = (n, len(design.targets), design.d_model)
    target = error[:n].reshape(shape)
    k = min(loss.auxiliary_k, design.features)
    some = [one[:n] for one in pre]
    ones = [np.ones(design.features, np.float32)] * len(some)
    pairs, _ = work.largest_apart(some, ones, k * n, np.zeros(len(some)), dead)
    out = np.zeros((n, error.shape[1]), np.float32)
    work.decoded(out, pairs, decoders)
    left = target - out.reshape(shape)
    centred = target - target.mean(0)
    spread = np.square(centred).sum((0, 2)) + np.float32(1e-12)
    n_dead = dead.sum() / len(dead)
    weight = np.float32(loss.auxiliary * min(n_dead / loss.auxiliary_k, 1.0) / shape[1])
    given = np.ascontiguousarray((left * (-2 * weight / spread)[:, None]).reshape(out.shape))
    work.add_gradients(grads, given, [one[:n] for one in read], pairs, decoders)
    return np.float32(weight * (np.square(left).sum((0, 2)) / spread).sum())


def _as_params(design: Design, grads: _Gradients, decoder_bias: np.ndarray) -> dict[str, Any]:
    """Gradients in the shape of the parameters."""
    f, d = design.features, design.d_model
    return {
        "encoder": [one.reshape(f, -1, d).transpose(1, 2, 0) for one in grads.encoder],
        "encoder_bias": grads.encoder_bias,
        "decoder": [one.reshape(f, -1, d) for one in grads.decoder],
        "decoder_bias": decoder_bias,
    }
