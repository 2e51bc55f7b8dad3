"""A second family, for tests alone: pre-norm, SwiGLU experts, a shared expert, renormalised gates.

Stored as Hugging Face stores such models: safetensors files, [out, in] matrices, an expert in three
tensors of its own, a head beside the embedding. Everything that the project needs to run it is
in this file.

Axes: B sequences, T tokens, S cached positions, D d_model, H heads, P d_head, E experts, K chosen
ones, F d_ff, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from grok.architectures.architecture import (
    ExpertProducts,
    Routed,
    all_specs,
)
from grok.architectures.families import FAMILIES, Family
from grok.architectures.moe import (
    Choice,
    ExpertForm,
    Experts,
    largest_first,
    run_selected,
    values_of,
)
from grok.checkpoints.safetensors_folder import SafetensorsFolder
from grok.checkpoints.tensor_spec import TensorSpec
from grok.interventions.sites import LAYER_SITES, NO_HOOK

HIGHEST = jax.lax.Precision.HIGHEST
SILU = ExpertForm("silu")


@dataclass(frozen=True)
class Config:
    """Sizes; `d_shared` is the width of the expert that every token passes through."""

    vocab_size: int = 96
    d_model: int = 32
    n_layers: int = 3
    n_heads: int = 4
    n_experts: int = 6
    top_k: int = 2
    d_ff: int = 24
    d_shared: int = 16
    context_length: int = 64
    eos_token: int = 95

    @property
    def eos_tokens(self) -> tuple[int, ...]:
        return (self.eos_token,)

    @property
    def moe_layers(self) -> range:
        return range(self.n_layers)

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads


@dataclass(frozen=True)
class PreNormMixture:
    """An `Architecture`."""

    config: Config
    layer_sites: tuple[str, ...] = LAYER_SITES
    head_leaf = "head"
    has_choice_values = False
    score = "softmax"
    plain_gates = False
    pad_token = None
    by_expert = False
    expert_products = ExpertProducts("experts/gate", "experts/up", "experts/down", SILU)

    def at(self, layer: int) -> PreNormMixture:
        return self

    def layer_specs(self, layer: int) -> tuple[TensorSpec, ...]:
        c, at = self.config, f"model.layers.{layer}."
        d, f, s = c.d_model, c.d_ff, c.d_shared

        def matrix(leaf: str, rows: int, columns: int, name: str) -> TensorSpec:
            return TensorSpec(leaf, (rows, columns), (at + name + ".weight",), transposed=True)

        def experts(leaf: str, rows: int, columns: int) -> TensorSpec:
            names = tuple(f"{at}mlp.experts.{e}.{leaf}_proj.weight" for e in range(c.n_experts))
            shape = (c.n_experts, rows, columns)
            return TensorSpec(f"experts/{leaf}", shape, names, transposed=True, per_expert=True)

        return (
            TensorSpec("norm1", (d,), (at + "input_layernorm.weight",)),
            *(matrix(n, d, d, f"self_attn.{n}_proj") for n in "qkvo"),
            TensorSpec("norm2", (d,), (at + "post_attention_layernorm.weight",)),
            matrix("router", d, c.n_experts, "mlp.gate"),
            matrix("shared/gate", d, s, "mlp.shared_expert.gate_proj"),
            matrix("shared/up", d, s, "mlp.shared_expert.up_proj"),
            matrix("shared/down", s, d, "mlp.shared_expert.down_proj"),
            experts("gate", d, f),
            experts("up", d, f),
            experts("down", f, d),
        )

    def outer_specs(self) -> tuple[TensorSpec, ...]:
        c = self.config
        return (
            TensorSpec("embed", (c.vocab_size, c.d_model), ("model.embed_tokens.weight",)),
            TensorSpec("norm", (c.d_model,), ("model.norm.weight",)),
            TensorSpec("head", (c.vocab_size, c.d_model), ("lm_head.weight",)),
        )

    def router_spec(self, layer: int) -> TensorSpec:
        return next(spec for spec in self.layer_specs(layer) if spec.leaf == "router")

    def router_norm_spec(self, layer: int) -> TensorSpec:
        return next(spec for spec in self.layer_specs(layer) if spec.leaf == "norm2")

    def with_vocabulary(self, vocab_size: int) -> PreNormMixture:
        return replace(self, config=replace(self.config, vocab_size=vocab_size))

    def cache_values(self) -> int:
        return 2 * self.config.d_model

    def scores(self, n_tokens: int) -> int:
        return self.config.n_heads * n_tokens**2

    def score_operations(self, n_keys: int) -> int:
        return 4 * n_keys * self.config.d_model

    def empty_cache(self, batch: int, length: int, dtype: Any) -> dict[str, jax.Array]:
        shape = (batch, length, self.config.n_heads, self.config.d_head)
        return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}

    def embed(self, params: Any, tokens: jax.Array, dtype: Any) -> jax.Array:
        return jnp.asarray(params["embed"])[tokens].astype(dtype).astype(jnp.float32)

    def before_experts(
        self, params: Any, h: Any, start: Any, key_is_token: Any, cache: Any, *, hook: Any = NO_HOOK
    ) -> tuple[Routed, dict[str, jax.Array]]:
        dtype = cache["k"].dtype
        h = hook("resid_pre", h)
        attended, cache = self._attend(params, h, start, key_is_token, cache)
        attended = hook("attn.output", attended.astype(dtype)).astype(jnp.float32)
        h = hook("resid_mid", h + hook("attn.normed", attended))
        x = norm(h, params["norm2"]).astype(dtype)
        choice = self._choose(params["router"], hook("router.input", x), hook)
        shared = swiglu(x, *(params[f"shared/{name}"] for name in ("gate", "up", "down")))
        return Routed({"h": h, "shared": shared}, x, choice), cache

    def _attend(
        self, params: Any, h: Any, start: Any, key_is_token: Any, cache: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        c = self.config
        b, t, _ = h.shape
        x = norm(h, params["norm1"])
        q, k, v = (dot(x, params[n]).reshape(b, t, c.n_heads, c.d_head) for n in "qkv")
        put = jax.lax.dynamic_update_slice_in_dim
        cache = {
            "k": put(cache["k"], k.astype(cache["k"].dtype), start, axis=1),
            "v": put(cache["v"], v.astype(cache["v"].dtype), start, axis=1),
        }
        scores = jnp.einsum("bthp,bshp->bhts", q, cache["k"], precision=HIGHEST) / c.d_head**0.5
        s = scores.shape[-1]
        seen = jnp.arange(s) <= (start + jnp.arange(t))[:, None]
        open_ = seen & key_is_token[:, None, None, :s]
        weights = jax.nn.softmax(jnp.where(open_, scores, -1e30), axis=-1)
        mixed = jnp.einsum("bhts,bshp->bthp", weights, cache["v"], precision=HIGHEST)
        return dot(mixed.reshape(b, t, -1), params["o"]), cache

    def _choose(self, router: jax.Array, x: jax.Array, hook: Any) -> Choice:
        logits = hook("router.logits", dot(x, router))
        probs = jax.nn.softmax(logits, axis=-1)
        gates, experts = jax.lax.top_k(probs, self.config.top_k)
        experts = experts.astype(jnp.int32)
        put = hook("router.experts", experts, probs=probs)
        if put is not experts:
            experts = largest_first(put, probs)
            gates = values_of(probs, experts)
        gates = gates / jnp.sum(gates, axis=-1, keepdims=True)
        return Choice(logits, probs, experts, hook("router.gates", gates))

    def decoder_layer(
        self,
        params: Any,
        h: Any,
        start: Any,
        key_is_token: Any,
        cache: Any,
        *,
        dispatch: Any = run_selected,
        hook: Any = NO_HOOK,
    ) -> tuple[jax.Array, Choice, dict[str, jax.Array]]:
        dtype = cache["k"].dtype
        routed, cache = self.before_experts(params, h, start, key_is_token, cache, hook=hook)
        x, choice = routed.expert_input, routed.choice
        k, d = choice.experts.shape[-1], x.shape[-1]
        weights = Experts(*(params[f"experts/{name}"] for name in ("gate", "up", "down")))
        rows = (x.reshape(-1, d), choice.experts.reshape(-1, k), choice.gates.reshape(-1, k))
        apart = hook.wants("moe.contribution")
        parts = dispatch(*rows, weights, summed=not apart, form=SILU)
        parts = parts.reshape(*x.shape[:-1], *((k, d) if apart else (d,)))
        return self.after_experts(params, routed.stream, parts, dtype, hook=hook), choice, cache

    def after_experts(
        self, params: Any, stream: Any, parts: Any, dtype: Any, *, hook: Any = NO_HOOK
    ) -> jax.Array:
        if hook.wants("moe.contribution"):
            parts = jnp.sum(hook("moe.contribution", parts), axis=-2)
        routed = hook("moe.output", parts.astype(dtype)).astype(jnp.float32)
        shared = hook("moe.shared", stream["shared"])
        return hook("resid_post", stream["h"] + hook("moe.normed", routed + shared))

    def final_norm(self, params: Any, h: Any, dtype: Any, *, hook: Any = NO_HOOK) -> jax.Array:
        return hook("norm.output", norm(h, params["norm"]).astype(dtype))

    def head(self, params: Any, normed: Any) -> jax.Array:
        return jnp.einsum("btd,vd->btv", normed, params["head"], precision=HIGHEST)


def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-5) * scale


def dot(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.dot(x.astype(jnp.float32), w.astype(jnp.float32), precision=HIGHEST)


def swiglu(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    return dot(jax.nn.silu(dot(x, gate)) * dot(x, up), down)


# --- files ----------------------------------------------------------------------------------


def open_folder(folder: Path) -> SafetensorsFolder:
    values = json.loads((folder / "config.json").read_text())
    config = Config(**{name: values[name] for name in values if name != "model_type"})
    names = [name for spec in all_specs(PreNormMixture(config)) for name in spec.names]
    return SafetensorsFolder(folder, config, names)


def is_one(folder: Path) -> bool:
    file = folder / "config.json"
    return file.is_file() and json.loads(file.read_text()).get("model_type") == "pre_norm_mixture"


FAMILY = Family("pre-norm mixture", is_one, open_folder, PreNormMixture)


@contextmanager
def registered() -> Iterator[None]:
    """The family among those that folders are asked for."""
    FAMILIES.insert(0, FAMILY)
    try:
        yield
    finally:
        FAMILIES.remove(FAMILY)


def write_model(folder: Path, config: Config | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights as safetensors in two files with an index; returns the tensors."""
    config = config or Config()
    rng = np.random.default_rng(seed)
    tensors = {}
    for spec in all_specs(PreNormMixture(config)):
        for name in spec.names:
            values = rng.standard_normal(spec.stored_shape).astype(np.float32)
            small = len(spec.stored_shape) > 1
            tensors[name] = values * spec.stored_shape[-1] ** -0.5 if small else 1 + 0.2 * values
    folder.mkdir(parents=True)
    halves = list(tensors)[::2], list(tensors)[1::2]
    weight_map = {}
    for number, names in enumerate(halves, 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    written = {"model_type": "pre_norm_mixture", **config.__dict__}
    (folder / "config.json").write_text(json.dumps(written))
    return tensors
