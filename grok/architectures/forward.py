"""The model as three pure functions of their parameters: embed, one layer, unembed.

One decoder layer is the unit that is compiled: all layers share one program,
which is applied to each layer's parameters in turn. Parameters are keyed by
their checkpoint path, those of a layer by the path within it ("router/w").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from grok.architectures.grok1 import (
    Cache,
    DecoderLayer,
    Dispatch,
    Embed,
    LayerTrace,
    Routed,
    Unembed,
    mixed,
)
from grok.architectures.moe import run_selected
from grok.config import GrokConfig
from grok.interventions.sites import NO_HOOK, Hook

Params = Mapping[str, Any]


def _nested(params: Params, prefix: str = "") -> hk.Params:
    """{"moe/linear/w": x} -> {"prefix/moe/linear": {"w": x}}, as Haiku keeps them."""
    nested: dict[str, dict[str, Any]] = {}
    for path, value in params.items():
        module, name = (prefix + path).rsplit("/", 1)
        nested.setdefault(module, {})[name] = value
    return nested


def embed(config: GrokConfig, params: Params, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Residual stream before the first layer, in float32. [B, T] -> [B, T, D]."""
    model = hk.transform(lambda t: Embed(config)(t, dtype))
    return model.apply(_nested(params), None, tokens)


def unembed(
    config: GrokConfig, params: Params, h: jax.Array, dtype: Any, *, hook: Hook = NO_HOOK
) -> jax.Array:
    """Logits of the residual stream after the last layer. [B, T, D] -> [B, T, V]."""
    model = hk.transform(lambda x: Unembed(config, hook)(x, dtype))
    return model.apply(_nested(params), None, h)


def final_norm(
    config: GrokConfig, params: Params, h: jax.Array, dtype: Any, *, hook: Hook = NO_HOOK
) -> jax.Array:
    """What the unembedding reads of the residual stream; the first step of `unembed`."""
    model = hk.transform(lambda x: Unembed(config, hook).norm(x, dtype))
    return model.apply(_nested(params), None, h)


def decode(config: GrokConfig, params: Params, normed: jax.Array) -> jax.Array:
    """Logits of what `final_norm` gives; the second step of `unembed`."""
    model = hk.transform(lambda x: Unembed(config).decode(x))
    return model.apply(_nested(params), None, normed)


def layer(
    config: GrokConfig,
    params: Params,
    h: jax.Array,
    start: jax.Array,
    key_is_token: jax.Array,
    cache: Cache,
    *,
    dispatch: Dispatch = run_selected,
    hook: Hook = NO_HOOK,
) -> tuple[jax.Array, LayerTrace, Cache]:
    """One decoder layer; see `grok.architectures.grok1.DecoderLayer`."""
    model = hk.transform(lambda *args: DecoderLayer(config, dispatch, hook)(*args))
    return model.apply(_nested(params, "decoder_layer/"), None, h, start, key_is_token, cache)


def first_half(
    config: GrokConfig,
    params: Params,
    h: jax.Array,
    start: jax.Array,
    key_is_token: jax.Array,
    cache: Cache,
    *,
    hook: Hook = NO_HOOK,
) -> tuple[Routed, Cache]:
    """A decoder layer up to its router's choice; needs no expert's weights."""
    model = hk.transform(lambda *args: DecoderLayer(config, hook=hook).route(*args))
    return model.apply(_nested(params, "decoder_layer/"), None, h, start, key_is_token, cache)


def second_half(
    config: GrokConfig,
    params: Params,
    stream: jax.Array,
    parts: jax.Array,
    dtype: Any,
    *,
    hook: Hook = NO_HOOK,
) -> jax.Array:
    """A decoder layer from its experts' output on; `parts` as for `grok1.mixed`."""

    def close(stream: jax.Array, parts: jax.Array) -> jax.Array:
        return DecoderLayer(config, hook=hook).close(stream, mixed(parts, dtype, hook))

    model = hk.transform(close)
    return model.apply(_nested(params, "decoder_layer/"), None, stream, parts)


def empty_cache(config: GrokConfig, batch: int, length: int, dtype: Any) -> Cache:
    """Room for `length` positions of one layer."""
    shape = (batch, length, config.n_kv_heads, config.d_head)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
