"""The loss of a dictionary on one batch.

loss = mean over targets of E‖y − ŷ‖² / E‖y − E y‖²
     + λ(t) · penalty + dead features' terms + routing term.

The denominators come from a calibration pass, so no layer dominates, and a loss of 1 is that of
the mean. All values are in the units of training.

Axes: S sites read, M sites written, G groups, B tokens, F features, D width, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grok.dictionaries.kinds.activations import Active, activate, step
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.parameters import (
    Params,
    decode,
    decoder_norms,
    encode,
    written_by,
)
from grok.dictionaries.kinds.selection import largest
from grok.dictionaries.training.settings import Loss


class Batch(NamedTuple):
    """Tokens of one step: x [S, B, D], y [M, B, D], experts chosen [S, B, K] or None."""

    x: jax.Array
    y: jax.Array
    chosen: jax.Array | None = None


class Held(NamedTuple):
    """What a run measured before its first step.

    denominators: E‖y − E y‖² [M]; routers: columns [M, D, E] that turn an error of the stream into
    an error of router logits over their spread, or None.
    """

    denominators: jax.Array
    routers: jax.Array | None = None


class Now(NamedTuple):
    """Where the run stands: budget k, strength of the penalty (0 to 1), dead features [G, F], and
    the thresholds of the step before [G]."""

    budget: jax.Array
    strength: jax.Array
    dead: jax.Array
    guesses: jax.Array


class Parts(NamedTuple):
    """Numbers of one batch.

    error: squared error by target over its denominator [M]; active: features of a token by group
    [G]; fired: [G, F] bool; levels: see `activate` [G]; penalty, auxiliary: terms of the loss.
    """

    error: jax.Array
    active: jax.Array
    fired: jax.Array
    levels: jax.Array
    penalty: jax.Array
    auxiliary: jax.Array


def loss_of(
    params: Params,
    batch: Batch,
    now: Now,
    held: Held,
    *,
    design: Design,
    activation: Activation,
    loss: Loss,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, Parts]:
    """The loss of a batch and its parts; `mesh`: see `grok.dictionaries.training.devices`."""
    norms = decoder_norms(params)
    pre = encode(design, params, batch.x, batch.chosen)
    if mesh is not None:
        split = NamedSharding(mesh, P("data", "model"))
        pre = [jax.lax.with_sharding_constraint(one, split) for one in pre]
    found = activate(
        activation,
        pre,
        norms if activation.gate_by_norm else None,
        params.get("threshold"),
        budget=now.budget,
        guesses=now.guesses,
        mesh=mesh,
    )
    error = batch.y - decode(design, params, found.features, batch.x)
    relative = jnp.mean(jnp.sum(jnp.square(error), axis=-1), axis=1) / held.denominators  # [M]
    penalty = now.strength * loss.coefficient * penalty_of(loss, activation, params, pre, found)
    extra = jnp.float32(0.0)
    if loss.pre_activation:
        extra += loss.pre_activation * _below(params, pre, norms, now.dead)
    if loss.auxiliary:
        extra += loss.auxiliary * auxiliary_of(loss, design, params, pre, error, now.dead, mesh)
    total = jnp.mean(relative) + penalty + extra
    if held.routers is not None:
        total += loss.routing * routing_of(error, held)
    with jax.named_scope("numbers"):
        active = [f > 0 for f in found.features]
        parts = Parts(
            relative,
            jnp.stack([jnp.sum(one, dtype=jnp.float32) / one.shape[0] for one in active]),
            jnp.stack([jnp.any(one, axis=0) for one in active]),
            found.levels,
            penalty,
            extra,
        )
    return total, jax.lax.stop_gradient(parts)


def penalty_of(
    loss: Loss,
    activation: Activation,
    params: Params,
    pre: Sequence[jax.Array],
    found: Active,
) -> jax.Array:
    """The sparsity penalty; a mean over tokens and groups."""
    if loss.penalty == "none":
        return jnp.float32(0.0)
    norms = decoder_norms(params)
    if loss.penalty in ("l1", "tanh"):
        sizes = [f * norm for f, norm in zip(found.features, norms, strict=True)]
        if loss.penalty == "tanh":
            sizes = [jnp.tanh(loss.scale * one) for one in sizes]
        return jnp.mean(jnp.stack([jnp.mean(jnp.sum(one, axis=1)) for one in sizes]))
    if activation.gate_by_norm:
        fixed = [jax.lax.stop_gradient(norm) for norm in norms]
        pre = [one * norm for one, norm in zip(pre, fixed, strict=True)]
    counts = jnp.stack(
        [
            jnp.mean(jnp.sum(step(one, theta, activation.bandwidth), axis=1))
            for one, theta in zip(pre, params["threshold"], strict=True)
        ]
    )
    if loss.penalty == "step":
        return jnp.mean(counts)
    return jnp.mean(jnp.square(counts / loss.target - 1))


def _below(
    params: Params, pre: Sequence[jax.Array], norms: Sequence[jax.Array], dead: jax.Array
) -> jax.Array:
    """relu(θ − pre)·‖W_d‖ of dead features, a mean over tokens and groups of sums."""
    theta = params.get("threshold")
    terms = []
    for i, one in enumerate(pre):
        level = 0.0 if theta is None else theta[i]
        weight = jax.lax.stop_gradient(norms[i]) * dead[i]
        terms.append(jnp.mean(jnp.sum(jax.nn.relu(level - one) * weight, axis=1)))
    return jnp.mean(jnp.stack(terms))


def auxiliary_of(
    loss: Loss,
    design: Design,
    params: Params,
    pre: Sequence[jax.Array],
    error: jax.Array,
    dead: jax.Array,
    mesh: Mesh | None = None,
) -> jax.Array:
    """How badly dead features explain the error, relative to the error's own variance.

    Of the first tokens of the batch, as many dead features as `auxiliary_k` a token, those with
    the largest pre-activations, are decoded without bias. Weighted by min(dead / auxiliary_k, 1);
    costs nothing while no feature is dead.
    """
    tokens = max(1, round(loss.auxiliary_share * error.shape[1]))
    # Rows of zeros, none of them chosen, that let the tokens divide among the devices.
    padding = 0 if mesh is None else -tokens % mesh.shape["data"]
    target = jax.lax.stop_gradient(error[:, :tokens])
    n_dead = jnp.sum(dead) / dead.shape[0]

    def explained(args: Any) -> jax.Array:
        decoders, own = args
        k = min(loss.auxiliary_k, design.features)
        values = [jnp.where(d, one, 0.0) for one, d in zip(own, dead, strict=True)]
        rows = (0, padding), (0, 0)
        compared = [jnp.pad(jax.lax.stop_gradient(one), rows) for one in values]
        masks = [largest([one], jnp.int32(k * tokens), mesh=mesh)[0][0] for one in compared]
        pairs = zip(masks, values, strict=True)
        kept = [jnp.where(mask[:tokens], one, 0.0) for mask, one in pairs]
        given = jnp.stack(written_by(design, decoders, kept))
        left = jnp.sum(jnp.square(target - given), axis=(1, 2))
        centred = target - jnp.mean(target, axis=1, keepdims=True)
        return jnp.mean(left / (jnp.sum(jnp.square(centred), axis=(1, 2)) + 1e-12))

    given = (params["decoder"], [one[:tokens] for one in pre])
    found = jax.lax.cond(n_dead > 0, explained, lambda _: jnp.float32(0.0), given)
    return jnp.minimum(n_dead / loss.auxiliary_k, 1.0) * found


def routing_of(error: jax.Array, held: Held) -> jax.Array:
    """The squared error of router logits, relative to their variance; a mean over targets."""
    assert held.routers is not None
    seen = jnp.einsum("mbd,mde->mbe", error, held.routers)
    return jnp.mean(jnp.sum(jnp.square(seen), axis=-1))
