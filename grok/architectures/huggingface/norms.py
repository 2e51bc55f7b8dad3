"""Norms, products and rotations that attention and mixtures share.

Axes: B sequences, T tokens, R the width of a head that turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.huggingface.config import MoeConfig, Rope
from grok.architectures.products import product


def rms(x: jax.Array, epsilon: float) -> jax.Array:
    """x over the root of its mean square along the last axis, float32."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return wide * jax.lax.rsqrt(mean_square + epsilon)


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float, dtype: Any) -> jax.Array:
    """`rms` in `dtype`, times a learned scale in `dtype`."""
    return rms(x, epsilon).astype(dtype) * scale.astype(dtype)


def norm(
    config: MoeConfig, params: Mapping[str, Any], leaf: str, x: jax.Array, dtype: Any
) -> jax.Array:
    """One of the model's norms in `dtype`, of a stream in float32."""
    scale = params[leaf]
    if config.layer_norm:
        wide = x.astype(dtype).astype(jnp.float32)
        off = wide - jnp.mean(wide, axis=-1, keepdims=True)
        spread = jax.lax.rsqrt(jnp.mean(jnp.square(off), -1, keepdims=True) + config.norm_epsilon)
        bias = params[f"{leaf}_bias"].astype(jnp.float32)
        return (off * spread * scale.astype(jnp.float32) + bias).astype(dtype)
    if config.activation == "clamped":  # this family rounds after the scale
        return (rms(x, config.norm_epsilon) * scale.astype(jnp.float32)).astype(dtype)
    return rms_norm(x, scale, config.norm_epsilon, dtype)


def linear(params: Mapping[str, Any], leaf: str, x: jax.Array) -> jax.Array:
    """x · w, and the bias where there is one, in the dtype of x."""
    out = product(x, params[leaf], x.dtype)
    bias = params.get(f"{leaf}_bias")
    return out if bias is None else out + bias.astype(x.dtype)


def swiglu(params: Mapping[str, Any], leaf: str, x: jax.Array) -> jax.Array:
    """down(silu(x · gate) * (x · up)) of a block's three matrices."""
    hidden = jax.nn.silu(linear(params, f"{leaf}/gate", x)) * linear(params, f"{leaf}/up", x)
    return linear(params, f"{leaf}/down", hidden)


def rotated(rope: Rope, x: jax.Array, positions: jax.Array) -> jax.Array:
    """x [B, T, heads, P] with its first R dimensions turned by its positions [T]."""
    turned, rest = x[..., : rope.width], x[..., rope.width :]
    angle = positions.astype(jnp.float32)[:, None, None] * np.asarray(rope.frequencies, np.float32)
    cos, sin = jnp.cos(angle) * rope.factor, jnp.sin(angle) * rope.factor
    wide = turned.astype(jnp.float32)
    if rope.pairs:
        a, b = wide[..., 0::2], wide[..., 1::2]
        out = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(wide.shape)
    else:
        a, b = jnp.split(wide, 2, axis=-1)
        out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return jnp.concatenate([out.astype(x.dtype), rest], axis=-1)
