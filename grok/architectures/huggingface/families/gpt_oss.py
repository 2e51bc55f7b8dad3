"""gpt-oss: clamped experts with biases in one tensor, attention sinks, windows in every other
layer, and experts in 4 bits."""

from __future__ import annotations

from grok.architectures.huggingface.config import ExpertTensors, LayerKind, MoeConfig, Router
from grok.architectures.huggingface.families import shared
from grok.architectures.huggingface.rotary import base, read_rope
from grok.architectures.huggingface.settings import Settings

SLIDING, FULL = "sliding_attention", "full_attention"


def read(settings: Settings) -> MoeConfig:
    """The config of a gpt-oss."""
    bias = settings.flag("attention_bias", True)
    attention = shared.heads(settings, kv_heads=8, bias=bias, out_bias=bias, sinks=True)
    return MoeConfig(
        family="gpt_oss",
        **shared.sizes(settings, 1e-5),
        n_experts=settings.whole("num_local_experts", "num_experts"),
        top_k=settings.whole("num_experts_per_tok", "experts_per_token"),
        d_ff=settings.whole("intermediate_size"),
        layers=_layers(settings),
        attention=attention,
        rope=read_rope(settings, attention.d_head, base(settings, 1.5e5)),
        router=Router("chosen", bias=True, rounds_gates=True, name="router"),
        experts=ExpertTensors(
            "gate_up_proj", "", "down_proj", apart=False, turned=False, biases=True
        ),
        block="mlp",
        activation="clamped",
        limit=settings.number("swiglu_limit", 7.0),
        alpha=settings.number("swiglu_alpha", 1.702),
        fused="interleaved",
    )


def _layers(settings: Settings) -> tuple[LayerKind, ...]:
    """Which layers slide: as listed, else every other one from the first."""
    n_layers = settings.layers()
    kinds = settings.values.get("layer_types")
    if kinds is None:
        kinds = [SLIDING if i % 2 == 0 else FULL for i in range(n_layers)]
    if (
        not isinstance(kinds, list)
        or len(kinds) != n_layers
        or not all(kind in (SLIDING, FULL) for kind in kinds)
    ):
        raise settings.error("layer_types", f"{n_layers} times {SLIDING} or {FULL}")
    slides = settings.whole("sliding_window", default=128)
    return tuple(LayerKind(window=slides if kind == SLIDING else None) for kind in kinds)
