"""A model of these families as an `Architecture`: pre-norm attention, then a mixture or a dense
block, as pure functions of parameters by their leaf.

Layers of one kind share a compiled program; `at` gives the architecture of a layer's kind.

Axes: B sequences, T tokens of this call, S cached positions, D d_model, K experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from grok.architectures.architecture import Dispatch, ExpertProducts, Params, Routed
from grok.architectures.held_scores import query_rows
from grok.architectures.huggingface import tensors
from grok.architectures.huggingface.attention import Cache, Place, attend
from grok.architectures.huggingface.config import LayerKind, MoeConfig
from grok.architectures.huggingface.latent_attention import attend_latents
from grok.architectures.huggingface.norms import linear, norm, swiglu
from grok.architectures.huggingface.routing import choose
from grok.architectures.moe import Choice, ExpertForm, run_selected
from grok.architectures.products import product
from grok.checkpoints.block_scales import Turned
from grok.checkpoints.tensor_spec import TensorSpec, with_leaf
from grok.interventions.sites import LAYER_SITES, MIXTURE_SITES, NO_HOOK, WITHOUT_SHARED, Hook


@dataclass(frozen=True)
class MoeTransformer:
    """One model; see `grok.architectures.architecture.Architecture`.

    Attributes:
        config: its sizes and settings.
        kind: of the layer that is computed.
    """

    config: MoeConfig
    kind: LayerKind = LayerKind()

    by_expert: ClassVar[bool] = True
    pad_token: ClassVar[int | None] = None

    def at(self, layer: int) -> MoeTransformer:
        return replace(self, kind=self.config.layers[layer])

    # parameters

    def layer_specs(self, layer: int) -> tuple[TensorSpec, ...]:
        return tensors.layer_specs(self.config, layer)

    def outer_specs(self) -> tuple[TensorSpec, ...]:
        return tensors.outer_specs(self.config)

    def router_spec(self, layer: int) -> TensorSpec:
        return with_leaf(self.layer_specs(layer), tensors.ROUTER)

    def router_norm_spec(self, layer: int) -> TensorSpec:
        return with_leaf(self.layer_specs(layer), tensors.NORM_2)

    @property
    def head_leaf(self) -> str:
        return tensors.EMBEDDING if self.config.tied else tensors.HEAD

    @property
    def layer_sites(self) -> tuple[str, ...]:
        if self.kind.experts:
            return LAYER_SITES if self.config.d_shared else WITHOUT_SHARED
        return tuple(site for site in LAYER_SITES if site not in MIXTURE_SITES)

    @property
    def has_choice_values(self) -> bool:
        router = self.config.router
        return router.rule != "softmax" or router.groups is not None

    @property
    def score(self) -> Literal["softmax", "sigmoid"]:
        return "sigmoid" if self.config.router.rule in ("sigmoid", "input") else "softmax"

    @property
    def plain_gates(self) -> bool:
        router = self.config.router
        scaled = router.renormalised or router.scale != 1
        return router.rule == "softmax" and router.groups is None and not scaled

    @property
    def expert_products(self) -> ExpertProducts:
        c = self.config
        second = tensors.SECOND if c.experts.second else ""
        form = ExpertForm(
            c.activation,
            c.fused,
            gates_input=c.router.rule == "input",
            rounded=True,
            limit=c.limit,
            alpha=c.alpha,
        )
        biases = (tensors.FIRST_BIAS, tensors.DOWN_BIAS) if c.experts.biases else ("", "")
        return ExpertProducts(tensors.FIRST, second, tensors.DOWN, form, *biases)

    def with_vocabulary(self, vocab_size: int) -> MoeTransformer:
        return replace(self, config=replace(self.config, vocab_size=vocab_size, eos_tokens=()))

    # memory

    def cache_values(self) -> int:
        a = self.config.attention
        if a.latent is not None:
            return a.latent.kv_rank + a.latent.turned
        return 2 * a.n_kv_heads * a.d_head

    def scores(self, n_tokens: int) -> int:
        heads = self.config.attention.n_heads
        return heads * n_tokens * query_rows(1, n_tokens, n_tokens, heads)

    def score_operations(self, n_keys: int) -> int:
        a = self.config.attention
        width = a.latent.kv_rank if a.latent is not None else a.d_head
        return 4 * n_keys * a.n_heads * width

    # arithmetic

    def empty_cache(self, batch: int, length: int, dtype: Any) -> Cache:
        a = self.config.attention
        if a.latent is not None:
            widths = a.latent.kv_rank, a.latent.turned
            return Cache(*(jnp.zeros((batch, length, width), dtype) for width in widths))
        shape = (batch, length, a.n_kv_heads, a.d_head)
        return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def embed(self, params: Params, tokens: jax.Array, dtype: Any) -> jax.Array:
        rows = jnp.asarray(params[tensors.EMBEDDING])[tokens].astype(dtype)
        return (rows * jnp.asarray(self.config.multipliers.embedding, dtype)).astype(jnp.float32)

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
    ) -> tuple[jax.Array, Choice | None, Cache]:
        dtype = cache.keys.dtype
        if not self.kind.experts:
            h, x, cache = self._attended(params, h, start, key_is_token, cache, hook)
            return self._closed(h, swiglu(params, "dense", x), dtype, hook), None, cache
        routed, cache = self.before_experts(params, h, start, key_is_token, cache, hook=hook)
        x, choice = routed.expert_input, routed.choice
        k, d = choice.experts.shape[-1], x.shape[-1]
        rows = (x.reshape(-1, d), choice.experts.reshape(-1, k), choice.gates.reshape(-1, k))
        apart = hook.wants("moe.contribution")
        products = self.expert_products
        parts = dispatch(*rows, products.of(params), summed=not apart, form=products.form)
        parts = parts.reshape(*x.shape[:-1], *((k, d) if apart else (d,)))
        return self.after_experts(params, routed.stream, parts, dtype, hook=hook), choice, cache

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
        h, x, cache = self._attended(params, h, start, key_is_token, cache, hook)
        c = self.config
        choice = choose(c.router, params, hook("router.input", x), c.top_k, hook)
        return Routed({"h": h, "shared": self._shared(params, x)}, x, choice), cache

    def _shared(self, params: Params, x: jax.Array) -> jax.Array | None:
        """What the expert that every token passes through gives [B, T, D]."""
        if not self.config.d_shared:
            return None
        out = swiglu(params, "shared", x)
        if self.config.shared_gate:
            out = out * jax.nn.sigmoid(linear(params, tensors.SHARED_GATE, x))
        return out

    def _attended(
        self,
        params: Params,
        h: jax.Array,
        start: jax.Array,
        key_is_token: jax.Array,
        cache: Cache,
        hook: Hook,
    ) -> tuple[jax.Array, jax.Array, Cache]:
        """The stream after attention, what the block reads of it, and the filled cache."""
        c, dtype = self.config, cache.keys.dtype
        h = hook("resid_pre", h)
        x = norm(c, params, tensors.NORM_1, h, dtype)
        run = attend if c.attention.latent is None else attend_latents
        out, cache = run(c, self.kind, params, x, Place(start, key_is_token), cache)
        added = hook("attn.normed", self._scaled(hook("attn.output", out)))
        h = hook("resid_mid", _added(h, added, dtype))
        return h, norm(c, params, tensors.NORM_2, h, dtype), cache

    def after_experts(
        self, params: Params, stream: Any, parts: jax.Array, dtype: Any, *, hook: Hook = NO_HOOK
    ) -> jax.Array:
        if hook.wants("moe.contribution"):
            parts = jnp.sum(hook("moe.contribution", parts), axis=-2)
        out = hook("moe.output", parts.astype(dtype))
        if stream["shared"] is not None:
            out = out + hook("moe.shared", stream["shared"])
        return self._closed(stream["h"], out, dtype, hook)

    def _closed(self, h: jax.Array, out: jax.Array, dtype: Any, hook: Hook) -> jax.Array:
        """The stream after the layer, of that before its block and what the block gives."""
        return hook("resid_post", _added(h, hook("moe.normed", self._scaled(out)), dtype))

    def _scaled(self, branch: jax.Array) -> jax.Array:
        """What a branch adds to the stream, float32."""
        factor = jnp.asarray(self.config.multipliers.residual, branch.dtype)
        return (branch * factor).astype(jnp.float32)

    def final_norm(
        self, params: Params, h: jax.Array, dtype: Any, *, hook: Hook = NO_HOOK
    ) -> jax.Array:
        return hook("norm.output", norm(self.config, params, tensors.LAST_NORM, h, dtype))

    def head(self, params: Params, normed: jax.Array) -> jax.Array:
        table = Turned(jnp.asarray(params[self.head_leaf]))
        logits = product(normed, table, normed.dtype)
        if self.config.head_bias:
            logits = logits + params[f"{tensors.HEAD}_bias"].astype(logits.dtype)
        return logits * jnp.asarray(self.config.multipliers.logits, logits.dtype)


def _added(h: jax.Array, branch: jax.Array, dtype: Any) -> jax.Array:
    """The stream with a branch added, rounded to `dtype`; float32."""
    return (h.astype(dtype) + branch.astype(dtype)).astype(jnp.float32)
