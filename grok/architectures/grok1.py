"""Grok-1 as an `Architecture`: attention and a mixture of experts, each between two norms.

The arithmetic is that of the Haiku modules in `grok1_modules`, as pure functions of parameters
that are keyed by their checkpoint path, those of a layer by the path within it ("router/w").
All layers have the same shapes, so one compiled program serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import haiku as hk
import jax
import jax.numpy as jnp

from grok.architectures.architecture import Dispatch, ExpertProducts, Params, Routed
from grok.architectures.grok1_modules import (
    Cache,
    DecoderLayer,
    Embed,
    Unembed,
    mixed,
)
from grok.architectures.held_scores import query_rows
from grok.architectures.moe import GELU, Choice, run_selected
from grok.checkpoints import grok1 as files
from grok.checkpoints.tensor_spec import TensorSpec, with_leaf
from grok.config import GrokConfig
from grok.interventions.sites import NO_HOOK, WITHOUT_SHARED, Hook


@dataclass(frozen=True)
class Grok1:
    """A model of Grok-1's family; see `grok.architectures.architecture.Architecture`.

    Attributes:
        config: its sizes and multipliers.
    """

    config: GrokConfig

    head_leaf: ClassVar[str] = files.EMBEDDING
    has_choice_values: ClassVar[bool] = False
    score: ClassVar[Literal["softmax", "sigmoid"]] = "softmax"
    plain_gates: ClassVar[bool] = True
    by_expert: ClassVar[bool] = False
    pad_token: ClassVar[int | None] = 0  # whatever the config says: so does the official code
    layer_sites: ClassVar[tuple[str, ...]] = WITHOUT_SHARED
    expert_products: ClassVar[ExpertProducts] = ExpertProducts(
        files.ACTIVATED, files.LINEAR, files.DOWN, GELU
    )

    def at(self, layer: int) -> Grok1:
        return self  # all layers are alike

    # parameters

    def layer_specs(self, layer: int) -> tuple[TensorSpec, ...]:
        return files.layer_specs(self.config, layer)

    def outer_specs(self) -> tuple[TensorSpec, ...]:
        return files.outer_specs(self.config)

    def router_spec(self, layer: int) -> TensorSpec:
        return with_leaf(self.layer_specs(layer), files.ROUTER)

    def router_norm_spec(self, layer: int) -> TensorSpec:
        return with_leaf(self.layer_specs(layer), files.ROUTER_NORM)

    def with_vocabulary(self, vocab_size: int) -> Grok1:
        return Grok1(replace(self.config, vocab_size=vocab_size, pad_token=0, eos_token=0))

    # memory

    def cache_values(self) -> int:
        return 2 * self.config.n_kv_heads * self.config.d_head

    def scores(self, n_tokens: int) -> int:
        heads = self.config.n_heads
        return heads * n_tokens * query_rows(1, n_tokens, n_tokens, heads)

    def score_operations(self, n_keys: int) -> int:
        return 4 * n_keys * self.config.n_heads * self.config.d_head

    # arithmetic

    def empty_cache(self, batch: int, length: int, dtype: Any) -> Cache:
        shape = (batch, length, self.config.n_kv_heads, self.config.d_head)
        return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def embed(self, params: Params, tokens: jax.Array, dtype: Any) -> jax.Array:
        return _apply(lambda t: Embed(self.config)(t, dtype), params, tokens)

    def decoder_layer(
        self,
        params: Params,
        h: jax.Array,
        start: jax.Array,
        key_is_token: jax.Array,
        cache: Cache,
        *,
        dispatch: Dispatch = run_selected,
        hook: Hook = NO_HOOK,
    ) -> tuple[jax.Array, Choice, Cache]:
        layer = lambda *args: DecoderLayer(self.config, dispatch, hook)(*args)  # noqa: E731
        return _apply(layer, params, h, start, key_is_token, cache, prefix=LAYER)

    def before_experts(
        self,
        params: Params,
        h: jax.Array,
        start: jax.Array,
        key_is_token: jax.Array,
        cache: Cache,
        *,
        hook: Hook = NO_HOOK,
    ) -> tuple[Routed, Cache]:
        route = lambda *args: DecoderLayer(self.config, hook=hook).route(*args)  # noqa: E731
        return _apply(route, params, h, start, key_is_token, cache, prefix=LAYER)

    def after_experts(
        self,
        params: Params,
        stream: jax.Array,
        parts: jax.Array,
        dtype: Any,
        *,
        hook: Hook = NO_HOOK,
    ) -> jax.Array:
        def close(stream: jax.Array, parts: jax.Array) -> jax.Array:
            return DecoderLayer(self.config, hook=hook).close(stream, mixed(parts, dtype, hook))

        return _apply(close, params, stream, parts, prefix=LAYER)

    def final_norm(
        self, params: Params, h: jax.Array, dtype: Any, *, hook: Hook = NO_HOOK
    ) -> jax.Array:
        return _apply(lambda x: Unembed(self.config, hook).norm(x, dtype), params, h)

    def head(self, params: Params, normed: jax.Array) -> jax.Array:
        return _apply(lambda x: Unembed(self.config).decode(x), params, normed)


LAYER = "decoder_layer/"


def _apply(function: Callable[..., Any], params: Params, *args: Any, prefix: str = "") -> Any:
    """A function of Haiku modules on parameters by path, those of a layer under `prefix`."""
    nested: dict[str, dict[str, Any]] = {}
    for path, value in params.items():
        module, name = (prefix + path).rsplit("/", 1)
        nested.setdefault(module, {})[name] = value
    return hk.transform(function).apply(nested, None, *args)


def initial_layer(config: GrokConfig, key: jax.Array) -> dict[str, jax.Array]:
    """Random weights of one decoder layer, by their path within it."""
    shape = (1, 2)
    args = (
        jnp.zeros((*shape, config.d_model)),
        jnp.int32(0),
        jnp.ones(shape, bool),
        Grok1(config).empty_cache(*shape, jnp.float32),
    )
    one_layer = hk.transform(lambda *a: DecoderLayer(config)(*a))
    nested: Mapping[str, Mapping[str, Any]] = one_layer.init(key, *args)
    return {
        f"{module}/{name}".removeprefix(LAYER): value
        for module, values in nested.items()
        for name, value in values.items()
    }
