"""Where published Mixture-of-Experts models keep their routers: names of tensors, keys of configs.

Routers are stored as [experts, d_model]. A layer without experts has none, and keeps its
number all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lens.errors import LensError
from lens.npz import plain


@dataclass(frozen=True)
class Layout:
    """One way to name router tensors.

    Attributes:
      id: for messages.
      families: models known to use it.
      router: what follows the layer's number in a router's name.
      biases: what may follow it in the name of its bias, first that is there.
      norms: the same for the scale of the norm before the router.
    """

    id: str
    families: str
    router: str
    biases: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()


# The norm between attention and the experts. Where a layer has norms on both sides, the
# name that says "before" is taken; elsewhere the norm after attention is that norm.
BEFORE_EXPERTS = (
    "pre_moe_norm.weight",
    "pre_feedforward_layernorm.weight",
    "pre_ff_layernorm.weight",
    "post_attention_layernorm.weight",
)
LAYOUTS = (
    Layout(
        "block_sparse_moe",
        "Mixtral, Grok-2, Phi-3.5-MoE",
        "block_sparse_moe.gate.weight",
        norms=BEFORE_EXPERTS,
    ),
    Layout(
        "mlp.gate",
        "Qwen-MoE, OLMoE, DeepSeek",
        "mlp.gate.weight",
        ("mlp.gate.e_score_correction_bias",),
        BEFORE_EXPERTS,
    ),
    Layout("mlp.router", "gpt-oss", "mlp.router.weight", ("mlp.router.bias",), BEFORE_EXPERTS),
    Layout(
        "ffn.router", "DBRX", "ffn.router.layer.weight", norms=("norm_attn_norm.norm_2.weight",)
    ),
    Layout(
        "feed_forward.router",
        "Llama-4, Jamba",
        "feed_forward.router.weight",
        norms=BEFORE_EXPERTS,
    ),
)
_LAYER = re.compile(
    r"^(?P<prefix>(?:[\w.]*\.)?(?:layers|blocks)\.)(?P<layer>\d{1,4})\.(?P<rest>.+)$"
)


@dataclass(frozen=True)
class LayerNames:
    """The tensors of one layer; None for what the model does not have."""

    router: str
    bias: str | None
    norm: str | None


def find_routers(names: Iterable[str]) -> tuple[Layout, dict[int, LayerNames]]:
    """The layout of a model and the router tensors of its layers, in the order of their numbers.

    Raises:
      LensError: no layout fits, several do, or the names have several prefixes
        (two models in one place).
    """
    names = set(names)
    found: dict[tuple[str, str], dict[int, str]] = {}
    by_router = {layout.router: layout for layout in LAYOUTS}
    for name in names:
        match = _LAYER.match(name)
        if match and match["rest"] in by_router:
            layers = found.setdefault((match["prefix"], match["rest"]), {})
            layer = int(match["layer"])
            if layer in layers:
                raise LensError(
                    f"'{plain(layers[layer], 80)}' and '{plain(name, 80)}' are the router of one "
                    "layer; expected one. Check where the files come from."
                )
            layers[layer] = name
    if not found:
        known = "; ".join(f"{layout.families}: …{layout.router}" for layout in LAYOUTS)
        raise LensError(
            f"None of {len(names)} tensors is a router of a known layout ({known}). Expected a "
            "Mixture-of-Experts model in one of them."
        )
    if len(found) > 1:
        which = "; ".join(f"{plain(a, 60)}N.{b}" for a, b in sorted(found))
        raise LensError(
            f"Routers are named in {len(found)} ways: {which}. Expected one model; keep the files "
            "of one in the folder."
        )
    ((prefix, router), layers), *_ = found.items()
    layout = by_router[router]

    def first(layer: int, endings: tuple[str, ...]) -> str | None:
        wanted = (layers[layer].removesuffix(router) + ending for ending in endings)
        return next((name for name in wanted if name in names), None)

    return layout, {
        layer: LayerNames(layers[layer], first(layer, layout.biases), first(layer, layout.norms))
        for layer in sorted(layers)
    }


@dataclass(frozen=True)
class RoutingSettings:
    """What a model's config says of its routing; None for what it does not say.

    Attributes:
      top_k: experts a token.
      n_experts: experts a layer, shared ones not counted.
      n_layers: layers; routers beyond them predict further tokens and are no layers.
      d_model: width of the residual stream.
      score: "softmax" or "sigmoid".
      name: of the architecture.
    """

    top_k: int | None = None
    n_experts: int | None = None
    n_layers: int | None = None
    d_model: int | None = None
    score: str | None = None
    name: str | None = None


_KEYS = {
    "top_k": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "num_selected_experts",
        "experts_per_token",
        "moe_top_k",
        "moe_topk",
    ),
    "n_experts": (
        "num_local_experts",
        "num_experts",
        "n_routed_experts",
        "moe_num_experts",
    ),
    "n_layers": ("num_hidden_layers", "n_layers"),
    "d_model": ("hidden_size", "d_model"),
}
# Parts of a config that may hold the language model's own settings.
_NESTED = ("text_config", "language_config", "llm_config", "ffn_config")
# Architectures whose gates are sigmoids without the config saying so.
_SIGMOID = ("llama4",)


def routing_settings(config: Mapping[str, Any]) -> RoutingSettings:
    """The settings in a `config.json`.

    Raises:
      LensError: a setting is there and makes no sense.
    """
    parts = [config, *(config[key] for key in _NESTED if isinstance(config.get(key), dict))]
    values: dict[str, int | None] = {}
    for name, keys in _KEYS.items():
        found = next((p[k] for p in reversed(parts) for k in keys if p.get(k) is not None), None)
        if found is not None and (
            not isinstance(found, int) or isinstance(found, bool) or not 1 <= found < 2**31
        ):
            raise LensError(
                f"config.json: {name} is {plain(str(found), 40)}; expected a whole number from 1."
            )
        values[name] = found
    kind = next((p["model_type"] for p in parts if isinstance(p.get("model_type"), str)), None)
    score = next((p["scoring_func"] for p in parts if p.get("scoring_func") is not None), None)
    if score is None and kind is not None:
        score = "sigmoid" if kind.startswith(_SIGMOID) else "softmax"
    if score is not None and score not in ("softmax", "sigmoid"):
        raise LensError(
            f"config.json: scoring_func is '{plain(str(score), 40)}'; expected softmax or sigmoid."
        )
    return RoutingSettings(**values, score=score, name=None if kind is None else plain(kind, 60))
