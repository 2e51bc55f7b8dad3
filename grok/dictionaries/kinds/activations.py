"""Activation functions of features and their gradients.

Axes: G groups, B tokens, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from grok.dictionaries.kinds.design import Activation
from grok.dictionaries.kinds.selection import largest, largest_of_groups


@jax.custom_vjp
def jumprelu(x: jax.Array, threshold: jax.Array, bandwidth: float) -> jax.Array:
    """x where it is above the threshold [F], else 0.

    Backward: df/dx = 1[x > θ]; df/dθ = −(θ/ε)·1[|x − θ| < ε/2], a rectangle of width ε in place of
    the jump. θ itself is the parameter, not its logarithm: with a step penalty the rectangle is
    all the gradient that θ gets, and a logarithm would scale it by θ.
    """
    return x * (x > threshold)


def _jumprelu_forward(
    x: jax.Array, threshold: jax.Array, bandwidth: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, float]]:
    return jumprelu(x, threshold, bandwidth), (x, threshold, bandwidth)


def _jumprelu_backward(
    saved: tuple[jax.Array, jax.Array, float], given: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    x, threshold, bandwidth = saved
    near = jnp.abs(x - threshold) < bandwidth / 2
    to_threshold = -(threshold / bandwidth) * jnp.sum(jnp.where(near, given, 0.0), axis=0)
    return given * (x > threshold), to_threshold, None


jumprelu.defvjp(_jumprelu_forward, _jumprelu_backward)


@jax.custom_vjp
def step(x: jax.Array, threshold: jax.Array, bandwidth: float) -> jax.Array:
    """1 where x is above the threshold [F], else 0.

    Backward: dH/dθ = −(1/ε)·1[|x − θ| < ε/2], and dH/dx = 0.
    """
    return (x > threshold).astype(x.dtype)


def _step_forward(
    x: jax.Array, threshold: jax.Array, bandwidth: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, float]]:
    return step(x, threshold, bandwidth), (x, threshold, bandwidth)


def _step_backward(
    saved: tuple[jax.Array, jax.Array, float], given: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    x, threshold, bandwidth = saved
    near = jnp.abs(x - threshold) < bandwidth / 2
    to_threshold = -jnp.sum(jnp.where(near, given, 0.0), axis=0) / bandwidth
    return jnp.zeros_like(x), to_threshold, None


step.defvjp(_step_forward, _step_backward)


class Active(NamedTuple):
    """Features of a batch, and the thresholds that were in force.

    features: [B, F] of each group, 0 where not active; levels: of each group, the gated value
    that the weakest active one had, where the largest of a batch were kept (else 0).
    """

    features: list[jax.Array]
    levels: jax.Array


def activate(
    activation: Activation,
    pre: Sequence[jax.Array],
    gates: Sequence[jax.Array] | None,
    thresholds: Sequence[jax.Array] | None,
    *,
    budget: jax.Array | float | None = None,
    guesses: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> Active:
    """Features of pre-activations, while training.

    Args:
        activation: its function and sizes.
        pre: [B, F] of each group.
        gates: norms of decoders [F] of each group that pre-activations are compared by; or None.
        thresholds: θ [F] of each group, for `jumprelu`.
        budget: active features of a token and group in `batch_topk`; its k by default.
        guesses: thresholds of the step before [G], which speed up `batch_topk`.
        mesh: over which tokens and features are split; None on one device.
    """
    none = jnp.zeros(len(pre), jnp.float32)
    gated = list(pre)
    if gates is not None:
        gates = [jax.lax.stop_gradient(gate) for gate in gates]
        gated = [one * gate for one, gate in zip(pre, gates, strict=True)]
    if activation.function == "relu":
        return Active([jax.nn.relu(one) for one in pre], none)
    if activation.function == "jumprelu":
        assert thresholds is not None
        values = [
            jumprelu(one, theta, activation.bandwidth)
            for one, theta in zip(gated, thresholds, strict=True)
        ]
        if gates is not None:
            values = [one / gate for one, gate in zip(values, gates, strict=True)]
        return Active(values, none)
    compared = [jax.lax.stop_gradient(one) for one in gated]
    if activation.function == "topk":
        masks, levels = _of_tokens(activation, compared, mesh), none
    else:
        k = activation.k if budget is None else budget
        first = none + 1 if guesses is None else guesses
        masks, levels = _of_batch(activation, compared, k, first, mesh)
    kept = [jnp.where(mask, one, 0.0) for mask, one in zip(masks, pre, strict=True)]
    return Active(kept, levels)


def _of_tokens(
    activation: Activation, gated: list[jax.Array], mesh: Mesh | None
) -> list[jax.Array]:
    """Masks of the k largest of each token, in each group or, pooled, in all of them."""
    if activation.pooled:
        return largest_of_groups(gated, activation.k * len(gated), mesh)
    return [largest_of_groups([one], activation.k, mesh)[0] for one in gated]


def _of_batch(
    activation: Activation,
    gated: list[jax.Array],
    k: jax.Array | float,
    guesses: jax.Array,
    mesh: Mesh | None,
) -> tuple[list[jax.Array], jax.Array]:
    """Masks of the k·B largest of a batch, in each group or, pooled, in all, and their levels."""
    tokens = gated[0].shape[0]
    if activation.pooled:
        count = jnp.round(jnp.asarray(k) * tokens * len(gated)).astype(jnp.int32)
        masks, level = largest(gated, count, guesses[0], mesh)
        return masks, jnp.full(len(gated), level)
    count = jnp.round(jnp.asarray(k) * tokens).astype(jnp.int32)
    pairs = zip(gated, guesses, strict=True)
    found = [largest([one], count, guess, mesh) for one, guess in pairs]
    return [masks[0] for masks, _ in found], jnp.stack([level for _, level in found])
