"""Attention of these families: grouped heads over a cache of keys and values.

Axes: B sequences, T tokens of this call, S cached positions, H query heads, J key heads, G query
heads of a key head, P width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from grok.architectures.held_scores import query_rows
from grok.architectures.huggingface.config import LayerKind, MoeConfig
from grok.architectures.huggingface.norms import linear, rms, rms_norm, rotated
from grok.architectures.products import HIGHEST

MASKED = -1e30


class Cache(NamedTuple):
    """Keys and values of one layer, [B, S, J, P] each, or latents and the turned part of keys,
    [B, S, rank] and [B, S, P]; in the activation dtype."""

    keys: jax.Array
    values: jax.Array


class Place(NamedTuple):
    """Where the tokens of a call stand. start: of the first; key_is_token: [B, S]."""

    start: jax.Array
    key_is_token: jax.Array


def put(cache: Cache, keys: jax.Array, values: jax.Array, start: jax.Array) -> Cache:
    """The cache with what this call's tokens give."""
    write = jax.lax.dynamic_update_slice_in_dim
    dtype = cache.keys.dtype
    return Cache(
        write(cache.keys, keys.astype(dtype), start, axis=1),
        write(cache.values, values.astype(dtype), start, axis=1),
    )


def attend(
    config: MoeConfig,
    kind: LayerKind,
    params: Mapping[str, Any],
    x: jax.Array,
    place: Place,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """What attention adds [B, T, D], and the filled cache.

    Args:
        config: of the model.
        kind: of the layer.
        params: of the layer.
        x: the normed stream [B, T, D].
        place: of its tokens.
        cache: of the layer.
    """
    a = config.attention
    b, t, _ = x.shape
    q, k, v = _projected(config, params, x)
    positions = place.start + jnp.arange(t)
    if kind.rope:
        q, k = rotated(config.rope, q, positions), rotated(config.rope, k, positions)
        if a.norm == "rms":
            q = rms(q, config.norm_epsilon).astype(q.dtype)
            k = rms(k, config.norm_epsilon).astype(k.dtype)
    if kind.temperature is not None:
        scale, floor = kind.temperature
        steps = jnp.floor((positions.astype(jnp.float32) + 1) / floor)
        q = (q * (1 + scale * jnp.log1p(steps))[:, None, None]).astype(q.dtype)
    cache = put(cache, k, v, place.start)
    grouped = q.reshape(b, t, a.n_kv_heads, a.n_heads // a.n_kv_heads, a.d_head)

    def some(queries: jax.Array, at: jax.Array) -> jax.Array:
        logits = jnp.einsum("btjgp,bsjp->bjgts", queries, cache.keys, precision=HIGHEST)
        logits = logits.astype(jnp.float32) * a.scale
        seen = visible(kind, at, place.key_is_token)[:, None, None]
        sinks = params["sinks"].astype(jnp.float32) if a.sinks else None
        weights = _weights(jnp.where(seen, logits, MASKED), sinks)
        return jnp.einsum(
            "bjgts,bsjp->btjgp", weights.astype(x.dtype), cache.values, precision=HIGHEST
        )

    out = in_parts(some, grouped, positions, cache.keys.shape[1], a.n_heads)
    return linear(params, "o", out.reshape(b, t, a.n_heads * a.d_head)), cache


def _projected(
    config: MoeConfig, params: Mapping[str, Any], x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [B, T, H, P], keys and values [B, T, J, P], normed and clipped where they are."""
    a = config.attention
    b, t, _ = x.shape
    q, k, v = (linear(params, leaf, x) for leaf in ("q", "k", "v"))
    if a.norm == "whole":
        q = rms_norm(q, params["q_norm"], config.norm_epsilon, x.dtype)
        k = rms_norm(k, params["k_norm"], config.norm_epsilon, x.dtype)
    if a.clip is not None:
        q, k, v = (jnp.clip(one, -a.clip, a.clip) for one in (q, k, v))
    q = q.reshape(b, t, a.n_heads, a.d_head)
    k, v = (one.reshape(b, t, a.n_kv_heads, a.d_head) for one in (k, v))
    if a.norm == "head":
        q = rms_norm(q, params["q_norm"], config.norm_epsilon, x.dtype)
        k = rms_norm(k, params["k_norm"], config.norm_epsilon, x.dtype)
    return q, k, v


def visible(kind: LayerKind, positions: jax.Array, key_is_token: jax.Array) -> jax.Array:
    """Which keys queries at `positions` [T] see, [B, T, S]."""
    keys = jnp.arange(key_is_token.shape[1])[None, :]
    at = positions[:, None]
    seen = keys <= at
    if kind.window is not None:
        seen &= keys > at - kind.window
    if kind.chunk is not None:
        seen &= keys // kind.chunk == at // kind.chunk
    return seen[None] & key_is_token[:, None, :]


def in_parts(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    queries: jax.Array,
    positions: jax.Array,
    n_keys: int,
    n_heads: int,
) -> jax.Array:
    """function(queries [B, T, …], positions [T]), some queries at a time where all scores of them
    would be too many."""
    b, t = queries.shape[:2]
    rows = query_rows(b, t, n_keys, n_heads)
    if rows == t:
        return function(queries, positions)
    parts = jnp.moveaxis(queries.reshape(b, t // rows, rows, *queries.shape[2:]), 1, 0)
    out = jax.lax.map(lambda own: function(*own), (parts, positions.reshape(-1, rows)))
    out = jnp.moveaxis(out, 0, 1)
    return out.reshape(b, t, *out.shape[3:])


def _weights(logits: jax.Array, sinks: jax.Array | None) -> jax.Array:
    """Softmax over the keys [B, J, G, T, S]; with sinks [H], a share of each row goes nowhere."""
    if sinks is None:
        return jax.nn.softmax(logits, axis=-1)
    own = sinks.reshape(1, *logits.shape[1:3], 1, 1)
    most = jnp.maximum(jnp.max(logits, axis=-1, keepdims=True), own)
    parts = jnp.exp(logits - most)
    return parts / (jnp.sum(parts, axis=-1, keepdims=True) + jnp.exp(own - most))
