"""Grok-1's layers as Haiku modules.

Axes: B sequences, T tokens of this call, S cached positions, L layers, D d_model,
H query heads, J key/value heads, P d_head, E experts, K experts a token.

Every rounding stands where Grok-1 has it when compiled: activations in the dtype of
the cache; norms, rotations, softmax and the router in float32. The residual stream
is stored in the activation dtype, but the norm that reads a sum right after it is
formed reads it before that rounding (the compiler fuses the two). So the stream
goes from layer to layer as float32 and is rounded where something is added to it. Parameters carry
the names they have in a checkpoint, so a decoder layer takes the tensors of one
layer as they were read, int8 or float.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from grok.architectures.architecture import Dispatch, Routed
from grok.architectures.held_scores import query_rows
from grok.architectures.moe import Choice, Experts, choose, run_selected
from grok.architectures.products import HIGHEST, product
from grok.architectures.stored_values import Weight
from grok.config import GrokConfig
from grok.interventions.sites import NO_HOOK, Hook

NORM_EPSILON = 1e-5
SOFT_CAP = 30.0
MASKED = -1e30
ROPE_BASE = 10000.0


class Cache(NamedTuple):
    """Keys and values of one layer. keys, values: [B, S, J, P] in the activation dtype."""

    keys: jax.Array
    values: jax.Array


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x / sqrt(mean(x²) + eps) * scale, computed in float32, returned in the dtype of x."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(mean_square + NORM_EPSILON)
    return (normed * scale.astype(jnp.float32)).astype(x.dtype)


class RMSNorm(hk.Module):
    """`rms_norm` with a learned scale, rounded to `dtype`."""

    def __call__(self, x: jax.Array, dtype: Any) -> jax.Array:
        scale = hk.get_parameter("scale", x.shape[-1:], jnp.float32, init=jnp.ones)
        return rms_norm(x.astype(jnp.float32), scale).astype(dtype)


class Linear(hk.Module):
    """x @ w in the dtype of x; w is float or int8 with grouped scales. No bias."""

    def __init__(self, size: int, name: str) -> None:
        super().__init__(name)
        self.size = size

    def __call__(self, x: jax.Array) -> jax.Array:
        w = matrix((x.shape[-1], self.size))
        return product(x, w, x.dtype)


def matrix(shape: tuple[int, ...]) -> Weight:
    """The parameter `w` of the current module, initialised at 1/sqrt(rows)."""
    init = hk.initializers.TruncatedNormal(shape[-2] ** -0.5)
    return hk.get_parameter("w", shape, jnp.float32, init=init)


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotary embedding, half-split: pairs (i, i + P/2) turn by position / base^(2i/P).

    Args:
        x: [B, T, heads, P].
        positions: [T].
    """
    half = x.shape[-1] // 2
    frequency = ROPE_BASE ** (-jnp.arange(half, dtype=jnp.float32) / half)
    phase = positions.astype(jnp.float32)[:, None, None] * frequency  # [T, 1, P/2]
    cos, sin = jnp.cos(phase), jnp.sin(phase)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(hk.Module):
    """Grouped-query attention over the cache, logits capped at ±30 before the mask."""

    def __init__(self, config: GrokConfig, name: str = "multi_head_attention") -> None:
        super().__init__(name)
        self.config = config

    def __call__(
        self, x: jax.Array, start: jax.Array, key_is_token: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        c = self.config
        b, t, _ = x.shape
        positions = start + jnp.arange(t)
        query = Linear(c.n_heads * c.d_head, "query")(x).reshape(b, t, c.n_heads, c.d_head)
        key = Linear(c.n_kv_heads * c.d_head, "key")(x).reshape(b, t, c.n_kv_heads, c.d_head)
        value = Linear(c.n_kv_heads * c.d_head, "value")(x).reshape(b, t, c.n_kv_heads, c.d_head)
        query, key = rotate(query, positions), rotate(key, positions)
        cache = Cache(
            jax.lax.dynamic_update_slice_in_dim(cache.keys, key, start, axis=1),
            jax.lax.dynamic_update_slice_in_dim(cache.values, value, start, axis=1),
        )
        query = query.reshape(b, t, c.n_kv_heads, c.n_heads // c.n_kv_heads, c.d_head)
        rows = query_rows(b, t, cache.keys.shape[1], c.n_heads)

        def attend(own: tuple[jax.Array, jax.Array]) -> jax.Array:
            return self._attend(*own, key_is_token, cache)

        if rows == t:
            out = attend((query, positions))
        else:  # some queries at a time: all scores of a long prompt are gigabytes
            parts = jnp.moveaxis(query.reshape(b, t // rows, rows, *query.shape[2:]), 1, 0)
            out = jax.lax.map(attend, (parts, positions.reshape(-1, rows)))
            out = jnp.moveaxis(out, 0, 1).reshape(b, t, *out.shape[3:])
        out = Linear(c.d_model, "linear")(out.reshape(b, t, c.n_heads * c.d_head))
        return out, cache

    def _attend(
        self, query: jax.Array, positions: jax.Array, key_is_token: jax.Array, cache: Cache
    ) -> jax.Array:
        """Weighted values [B, T, J, G, P] of queries of that shape at positions [T]."""
        logits = jnp.einsum(
            "btjgp,bsjp->bjgts", query, cache.keys, precision=HIGHEST
        )  # in the activation dtype
        logits = logits.astype(jnp.float32) * self.config.attention_multiplier
        logits = SOFT_CAP * jnp.tanh(logits / SOFT_CAP)
        causal = jnp.arange(cache.keys.shape[1])[None, :] <= positions[:, None]  # [T, S]
        allowed = causal[None, None, None] & key_is_token[:, None, None, None, :]
        weights = jax.nn.softmax(jnp.where(allowed, logits, MASKED), axis=-1).astype(query.dtype)
        return jnp.einsum("bjgts,bsjp->btjgp", weights, cache.values, precision=HIGHEST)


class ExpertMatrices(hk.Module):
    """The stacked weights of one of the experts' three products."""

    def __call__(self, shape: tuple[int, ...]) -> Weight:
        return matrix(shape)


class Router(hk.Module):
    """Chooses `top_k` of the experts for every token."""

    def __init__(self, config: GrokConfig, name: str = "router") -> None:
        super().__init__(name)
        self.config = config

    def __call__(self, x: jax.Array, hook: Hook = NO_HOOK) -> Choice:
        c = self.config
        init = hk.initializers.TruncatedNormal(c.d_model**-0.5)
        w = hk.get_parameter("w", (c.d_model, c.n_experts), jnp.float32, init=init)
        return choose(x, w, c.top_k, hook)


class Mixture(hk.Module):
    """The experts' part of a layer; computes the chosen ones only."""

    def __init__(self, config: GrokConfig, dispatch: Dispatch, name: str = "moe") -> None:
        super().__init__(name)
        self.config, self.dispatch = config, dispatch

    def __call__(self, x: jax.Array, choice: Choice, hook: Hook = NO_HOOK) -> jax.Array:
        c = self.config
        up, down = (c.n_experts, c.d_model, c.d_ff), (c.n_experts, c.d_ff, c.d_model)
        weights = Experts(
            activated=ExpertMatrices("linear")(up),
            linear=ExpertMatrices("linear_v")(up),
            down=ExpertMatrices("linear_1")(down),
        )
        rows = x.reshape(-1, c.d_model)  # [B * T, D]
        k = choice.experts.shape[-1]
        experts, gates = choice.experts.reshape(-1, k), choice.gates.reshape(-1, k)
        if hook.wants("moe.contribution"):
            parts = self.dispatch(rows, experts, gates, weights, summed=False)
            parts = parts.reshape(*x.shape[:-1], k, c.d_model)
        else:
            parts = self.dispatch(rows, experts, gates, weights).reshape(x.shape)
        return mixed(parts, x.dtype, hook)


def mixed(parts: jax.Array, dtype: Any, hook: Hook = NO_HOOK) -> jax.Array:
    """The experts' output [B, T, D] in `dtype` of their sum [B, T, D], or of the contributions
    [B, T, K, D] where those are looked at."""
    if hook.wants("moe.contribution"):
        parts = jnp.sum(hook("moe.contribution", parts), axis=-2)
    return hook("moe.output", parts.astype(dtype))


class DecoderLayer(hk.Module):
    """h += norm_1(attention(norm(h))), then h += norm_3(mixture(norm_2(h)))."""

    def __init__(
        self,
        config: GrokConfig,
        dispatch: Dispatch = run_selected,
        hook: Hook = NO_HOOK,
        name: str = "decoder_layer",
    ) -> None:
        super().__init__(name)
        self.config, self.dispatch, self.hook = config, dispatch, hook

    def __call__(
        self, h: jax.Array, start: jax.Array, key_is_token: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Choice, Cache]:
        """One layer.

        Args:
            h: residual stream [B, T, D] float32, not yet rounded to the activation dtype.
            start: position of the first of the T tokens.
            key_is_token: [B, S], False at padding; attention never reads those keys.
            cache: this layer's keys and values, [B, S, J, P] in the activation dtype.

        Every site of `grok.interventions.sites` passes through `hook` on its way.

        Returns:
            The residual stream after the layer, the router's choice, the filled cache.
        """
        routed, cache = self.route(h, start, key_is_token, cache)
        moe_out = Mixture(self.config, self.dispatch)(routed.expert_input, routed.choice, self.hook)
        return self.close(routed.stream, moe_out), routed.choice, cache

    @hk.name_like("__call__")
    def route(
        self, h: jax.Array, start: jax.Array, key_is_token: jax.Array, cache: Cache
    ) -> tuple[Routed, Cache]:
        """Everything before the experts; arguments as for a call."""
        dtype, hook = cache.keys.dtype, self.hook
        h = hook("resid_pre", h)
        normed = RMSNorm("rms_norm")(h, dtype)
        attn_out, cache = Attention(self.config)(normed, start, key_is_token, cache)
        attn_out = hook("attn.output", attn_out)
        normed = RMSNorm("rms_norm_1")(attn_out, dtype).astype(jnp.float32)
        h = hook("resid_mid", added(h, hook("attn.normed", normed), dtype))
        router_input = RMSNorm("rms_norm_2")(h, dtype)
        choice = Router(self.config)(hook("router.input", router_input), hook)
        return Routed(h, router_input, choice), cache

    @hk.name_like("__call__")
    def close(self, stream: jax.Array, moe_out: jax.Array) -> jax.Array:
        """The residual stream after the layer, of that before the experts and their output."""
        normed = RMSNorm("rms_norm_3")(moe_out, moe_out.dtype).astype(jnp.float32)
        normed = self.hook("moe.normed", normed)
        return self.hook("resid_post", added(stream, normed, moe_out.dtype))


def added(stream: jax.Array, branch: jax.Array, dtype: Any) -> jax.Array:
    """The residual stream, rounded to `dtype`, plus a branch; all but the rounding float32."""
    return stream.astype(dtype).astype(jnp.float32) + branch


class InOutEmbed(hk.Module):
    """Token embedding, tied with the decoder; both carry a multiplier."""

    def __init__(self, config: GrokConfig, name: str = "in_out_embed") -> None:
        super().__init__(name)
        self.config = config

    def _table(self) -> jax.Array:
        c = self.config
        init = hk.initializers.RandomNormal(c.d_model**-0.5)
        shape = (c.vocab_size, c.d_model)
        return hk.get_parameter("embeddings", shape, jnp.float32, init=init)

    def encode(self, tokens: jax.Array, dtype: Any) -> jax.Array:
        """[B, T] -> [B, T, D] float32; table and multiplier are rounded to `dtype`."""
        rows = self._table()[tokens].astype(dtype).astype(jnp.float32)
        return rows * jnp.asarray(self.config.embedding_multiplier, dtype).astype(jnp.float32)

    def decode(self, h: jax.Array) -> jax.Array:
        """[B, T, D] -> logits [B, T, V] in the dtype of h."""
        logits = jnp.einsum("btd,vd->btv", h, self._table().astype(h.dtype), precision=HIGHEST)
        return logits * jnp.asarray(self.config.output_multiplier, h.dtype)


class Embed(hk.Module):
    """What stands before the first decoder layer."""

    def __init__(self, config: GrokConfig, name: str = "language_model") -> None:
        super().__init__(name)
        self.config = config

    def __call__(self, tokens: jax.Array, dtype: Any) -> jax.Array:
        """Token ids [B, T] -> residual stream before the first layer [B, T, D]."""
        return InOutEmbed(self.config).encode(tokens, dtype)


class Unembed(hk.Module):
    """What stands after the last decoder layer."""

    def __init__(
        self, config: GrokConfig, hook: Hook = NO_HOOK, name: str = "language_model"
    ) -> None:
        super().__init__(name)
        self.config, self.hook = config, hook

    @hk.name_like("__call__")
    def norm(self, h: jax.Array, dtype: Any) -> jax.Array:
        """What the unembedding reads [B, T, D] in `dtype`."""
        return self.hook("norm.output", RMSNorm("rms_norm")(h, dtype))

    @hk.name_like("__call__")
    def decode(self, normed: jax.Array) -> jax.Array:
        """Logits [B, T, V] of what it reads."""
        return InOutEmbed(self.config).decode(normed)
