"""What a model's `config.json` says of its routing, and what its family is known to do.

A family is known by its `model_type`. Only what its public modelling code settles is
here; of any other family the norm before the routers counts as unknown, since a tensor's
name alone does not say where a norm stands ("post_attention_layernorm" feeds the router in
Mixtral and is added to the residual stream in FlexOlmo) nor whether it stores its scale
or its scale minus 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grok.errors import CheckpointError, plain

AFTER_ATTENTION = "post_attention_layernorm"  # a pre-norm of the experts in these families


@dataclass(frozen=True)
class Family:
    """What the models of a `model_type` have in common.

    Attributes:
      norm: the norm that feeds the router; "" where it is not known.
      offset: added to the norm's stored values to give its scale.
      layer_norm: whether the norm takes the mean off too, and may have a bias.
      score: what turns logits into gates; None where the config has to say it.
    """

    norm: str = AFTER_ATTENTION
    offset: float = 0.0
    layer_norm: bool = False
    score: str | None = "softmax"


FAMILIES = {
    "mixtral": Family(),
    "phimoe": Family(layer_norm=True),
    "qwen2_moe": Family(),
    "qwen3_moe": Family(),
    "qwen3_vl_moe": Family(),
    "qwen3_next": Family(offset=1.0),
    "qwen3_5_moe": Family(offset=1.0),
    "olmoe": Family(),
    "deepseek": Family(),
    "deepseek_v2": Family(),
    "deepseek_v3": Family(score="sigmoid"),
    "kimi_k2": Family(score="sigmoid"),
    "glm4_moe": Family(score="sigmoid"),
    "ernie4_5_moe": Family(norm=""),
    "granitemoe": Family(),
    "minimax_m2": Family(score="sigmoid"),
    "gpt_oss": Family(),
    "dbrx": Family("norm_attn_norm.norm_2", layer_norm=True),
    "llama4": Family(score="sigmoid"),
    "jamba": Family("pre_ff_layernorm"),
}
UNKNOWN = Family(norm="", score=None)
# A norm whose name says all that has to be known: Grok-2's, whatever its model_type is.
SPEAKING_NORM = "pre_moe_norm"


@dataclass(frozen=True)
class RoutingSettings:
    """What a model's config says of its routing; None for what it does not say.

    Attributes:
      top_k: experts a token.
      n_experts: experts a layer, shared ones not counted.
      n_layers: layers; routers beyond them predict further tokens and are no layers.
      d_model: width of the residual stream.
      score: what turns logits into gates, in the config's own word.
      family: what is known of models of this `model_type`.
      name: of the architecture, or of the model.
      notes: what else changes the choice or the gates.
    """

    top_k: int | None = None
    n_experts: int | None = None
    n_layers: int | None = None
    d_model: int | None = None
    score: str | None = None
    family: Family = UNKNOWN
    name: str | None = None
    notes: tuple[str, ...] = ()


_KEYS = {
    "top_k": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "num_selected_experts",
        "experts_per_token",
        "moe_top_k",
        "moe_topk",
        "moe_k",
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
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def routing_settings(config: Mapping[str, Any]) -> RoutingSettings:
    """The settings in a `config.json`.

    Raises:
      CheckpointError: a setting is there and makes no sense.
    """
    parts = [config, *(config[key] for key in _NESTED if isinstance(config.get(key), dict))]
    values = {name: _whole_number(parts, name, keys) for name, keys in _KEYS.items()}
    kinds = [p["model_type"] for p in parts if isinstance(p.get("model_type"), str)]
    known = [kind.removesuffix("_text") for kind in kinds]
    score = _first(parts, ("scoring_func",))
    return RoutingSettings(
        **values,
        score=None if score is None else plain(str(score), 40),
        family=next((FAMILIES[kind] for kind in reversed(known) if kind in FAMILIES), UNKNOWN),
        name=_name(config, kinds),
        notes=tuple(_notes(parts)),
    )


def _first(parts: list[Mapping[str, Any]], keys: tuple[str, ...]) -> Any:
    """The value of the first key that is there, in the innermost part that has one."""
    return next((p[k] for p in reversed(parts) for k in keys if p.get(k) is not None), None)


def _whole_number(parts: list[Mapping[str, Any]], name: str, keys: tuple[str, ...]) -> int | None:
    found = _first(parts, keys)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found < 2**31:
        raise CheckpointError(
            f"config.json: {name} is {plain(str(found), 40)}; expected a whole number from 1. "
            "Get the model's own config.json again."
        )
    return found


def _name(config: Mapping[str, Any], kinds: list[str]) -> str | None:
    """The repository that the config names, unless it is a path, and the architecture."""
    path = config.get("_name_or_path")
    named = isinstance(path, str) and _REPOSITORY.fullmatch(path) and not path.startswith(".")
    found = [str(path)] if named else []
    found += [plain(kind, 60) for kind in kinds[:1] if kind]
    return ", ".join(found) or None


def _notes(parts: list[Mapping[str, Any]]) -> list[str]:
    """What changes the choice or the gates and has no place in a router set."""
    notes = []
    groups, kept = _first(parts, ("n_group",)), _first(parts, ("topk_group",))
    if isinstance(groups, int) and isinstance(kept, int) and 1 <= kept < groups < 2**31:
        if _first(parts, ("topk_method",)) != "greedy":
            notes.append(f"experts chosen within {kept} of {groups} groups, which is not modelled")
    cap = _first(parts, ("router_logit_softcapping",))
    if isinstance(cap, int | float) and not isinstance(cap, bool) and 0 < cap < 1e6:
        notes.append(f"logits soft-capped at {cap:g}, so gates depend on what columns share")
    return notes
