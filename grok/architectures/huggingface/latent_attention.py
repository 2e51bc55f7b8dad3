"""Attention over a cache of latents: a few numbers a token, from which keys and values are made.

Axes: B sequences, T tokens of this call, S cached positions, H heads, N and R the parts of a query
that stay and that turn, C the latent's width, V the width of a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from grok.architectures.huggingface.attention import MASKED, Cache, Place, in_parts, put, visible
from grok.architectures.huggingface.config import LayerKind, MoeConfig
from grok.architectures.huggingface.norms import linear, rms_norm, rotated
from grok.architectures.products import HIGHEST
from grok.architectures.stored_values import float_values

EPSILON = 1e-6  # of the norms within, whatever the model's own is


def attend_latents(
    config: MoeConfig,
    kind: LayerKind,
    params: Mapping[str, Any],
    x: jax.Array,
    place: Place,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """What attention adds [B, T, D], and the filled cache; arguments as for `attention.attend`.

    Keys and values are never made: a head's query is taken to the latents' space, and its weighted
    sum of latents from there.
    """
    a = config.attention
    own = a.latent
    assert own is not None
    b, t, _ = x.shape
    positions = place.start + jnp.arange(t)
    if own.q_rank is None:
        q = linear(params, "q", x)
    else:
        small = rms_norm(linear(params, "q_a", x), params["q_a_norm"], EPSILON, x.dtype)
        q = linear(params, "q_b", small)
    q = q.reshape(b, t, a.n_heads, own.plain + own.turned)
    still, turned = q[..., : own.plain], rotated(config.rope, q[..., own.plain :], positions)
    both = linear(params, "kv_a", x)
    latent = rms_norm(both[..., : own.kv_rank], params["kv_a_norm"], EPSILON, x.dtype)
    key = rotated(config.rope, both[..., None, own.kv_rank :], positions)[..., 0, :]
    cache = put(cache, latent, key, place.start)
    out_of = float_values(params["kv_b"], x.dtype).astype(x.dtype)
    out_of = out_of.reshape(own.kv_rank, a.n_heads, own.plain + own.value)
    keys_of, values_of = out_of[..., : own.plain], out_of[..., own.plain :]
    taken = jnp.einsum("bthn,chn->bthc", still, keys_of, precision=HIGHEST)

    def some(queries: jax.Array, at: jax.Array) -> jax.Array:
        on_latents, on_turned = queries[..., : own.kv_rank], queries[..., own.kv_rank :]
        logits = jnp.einsum("bthc,bsc->bhts", on_latents, cache.keys, precision=HIGHEST)
        logits += jnp.einsum("bthr,bsr->bhts", on_turned, cache.values, precision=HIGHEST)
        seen = visible(kind, at, place.key_is_token)[:, None]
        scaled = jnp.where(seen, logits.astype(jnp.float32) * a.scale, MASKED)
        weights = jax.nn.softmax(scaled, axis=-1).astype(x.dtype)
        return jnp.einsum("bhts,bsc->bthc", weights, cache.keys, precision=HIGHEST)

    joined = jnp.concatenate([taken, turned], axis=-1)
    sums = in_parts(some, joined, positions, cache.keys.shape[1], a.n_heads)
    out = jnp.einsum("bthc,chv->bthv", sums, values_of, precision=HIGHEST)
    return linear(params, "o", out.reshape(b, t, a.n_heads * own.value)), cache
