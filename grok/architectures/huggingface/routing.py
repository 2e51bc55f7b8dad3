"""The choice of experts, by each family's own rule.

Axes: B sequences, T tokens, D d_model, E experts, K experts a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from grok.architectures.huggingface import tensors
from grok.architectures.huggingface.config import Router
from grok.architectures.moe import Choice, largest_first, values_of
from grok.architectures.products import HIGHEST
from grok.interventions.sites import Hook

TINY = 1e-20  # added to the sum that gates are divided by, as the published code does


def choose(
    router: Router, params: Mapping[str, Any], x: jax.Array, top_k: int, hook: Hook
) -> Choice:
    """The experts of every token and their gates.

    A change of the logits acts on what the rule makes of them. An expert whose logit is -inf is
    never chosen, whatever a correction would add; bans do that. Experts that are put there get
    the gates that the rule gives to them.

    Args:
        router: the rule.
        params: of the layer.
        x: what the router reads [B, T, D].
        top_k: experts a token.
        hook: called at the router's sites.
    """
    dtype = jnp.float32 if router.wide else x.dtype
    weight = jnp.asarray(params[tensors.ROUTER])
    logits = jnp.dot(x.astype(dtype), weight.astype(dtype), precision=HIGHEST)
    if router.bias:
        logits = logits + params[tensors.ROUTER_BIAS].astype(dtype)
    logits = hook("router.logits", logits.astype(jnp.float32))
    scores = scores_of(router, logits)
    values = _values(router, params, logits, scores)
    experts = jax.lax.top_k(values, top_k)[1].astype(jnp.int32)
    put = hook("router.experts", experts, probs=values)
    if put is not experts:
        experts = largest_first(put, values)
    gates = _gates(router, logits, scores, experts)
    if router.rounds_gates:
        gates = gates.astype(x.dtype).astype(jnp.float32)
    gates = hook("router.gates", gates)
    same = router.rule == "softmax" and router.groups is None
    return Choice(logits, scores, experts, gates, None if same else values)


def scores_of(router: Router, logits: jax.Array) -> jax.Array:
    """Every expert's score [..., E]: a softmax over all, or a sigmoid of each."""
    if router.rule in ("sigmoid", "input"):
        return jax.nn.sigmoid(logits)
    return jax.nn.softmax(logits, axis=-1)


def _values(
    router: Router, params: Mapping[str, Any], logits: jax.Array, scores: jax.Array
) -> jax.Array:
    """What the largest are taken of [..., E]; -inf where an expert cannot be chosen."""
    if router.rule in ("chosen", "input", "sparsemixer"):
        return logits
    banned = jnp.isneginf(logits)
    values = scores
    if router.correction:
        values = values + params[tensors.CORRECTION].astype(jnp.float32)
    values = jnp.where(banned, -jnp.inf, values)
    if router.groups is None:
        return values
    n_groups, stay = router.groups
    grouped = values.reshape(*values.shape[:-1], n_groups, -1)
    if router.rule == "sigmoid":  # a group counts by its two best
        best = jnp.sum(jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0], axis=-1)
    else:
        best = jnp.max(grouped, axis=-1)
    among = jax.lax.top_k(best, stay)[1]  # [..., stay]
    kept = jnp.any(among[..., None] == jnp.arange(n_groups), axis=-2)
    # Out of its group a softmax's expert counts 0, which no other has; a sigmoid's nothing.
    out = -jnp.inf if router.rule == "sigmoid" else 0.0
    there = jnp.where(kept[..., None], grouped, jnp.minimum(grouped, out))
    return there.reshape(values.shape)


def _gates(router: Router, logits: jax.Array, scores: jax.Array, experts: jax.Array) -> jax.Array:
    """Weights of some experts [..., K] by the rule; 0 for an id that stands for none."""
    if router.rule == "chosen":
        return jax.nn.softmax(values_of(logits, experts, -jnp.inf), axis=-1)
    if router.rule == "sparsemixer":
        there = (experts >= 0) & (experts < scores.shape[-1])
        ids = jnp.where(there, experts, 0)
        return jnp.where(there, _one_after_the_other(router.near, logits, ids), 0.0)
    gates = values_of(scores, experts)
    if router.renormalised:
        gates = gates / (jnp.sum(gates, axis=-1, keepdims=True) + TINY)
    return gates * router.scale


def _one_after_the_other(near: float, logits: jax.Array, ids: jax.Array) -> jax.Array:
    """Each chosen expert's softmax over what is near it, with those before it taken out."""
    left, gates = logits, []
    for k in range(ids.shape[-1]):
        own = jnp.take_along_axis(logits, ids[..., k : k + 1], axis=-1)
        far = (own - logits) / jnp.maximum(jnp.abs(logits), own) > near
        weights = jax.nn.softmax(jnp.where(far, -jnp.inf, left), axis=-1)
        gates.append(jnp.take_along_axis(weights, ids[..., k : k + 1], axis=-1))
        is_it = jnp.arange(logits.shape[-1]) == ids[..., k : k + 1]
        left = jnp.where(is_it, -jnp.inf, left)
    return jnp.concatenate(gates, axis=-1)
