"""Llama-4's text model: one expert a token whose gate multiplies what it reads, a shared expert,
attention in chunks, and layers without rotation."""

from __future__ import annotations

from grok.architectures.huggingface.config import ExpertTensors, LayerKind, MoeConfig, Router
from grok.architectures.huggingface.families import shared
from grok.architectures.huggingface.rotary import base, read_rope
from grok.architectures.huggingface.settings import Settings


def read(settings: Settings) -> MoeConfig:
    """The config of a Llama-4, or of the text model within one."""
    prefix = ""
    if settings.has("text_config"):
        settings, prefix = settings.part("text_config"), "language_model."
    attention = shared.heads(
        settings, kv_heads=8, norm="rms" if settings.flag("use_qk_norm", True) else ""
    )
    d_ff = settings.whole("intermediate_size")
    return MoeConfig(
        family="llama4_text",
        **shared.sizes(settings, 1e-5),
        n_experts=settings.whole("num_local_experts", "num_experts"),
        top_k=settings.whole("num_experts_per_tok", default=1),
        d_ff=d_ff,
        layers=_layers(settings),
        attention=attention,
        rope=read_rope(settings, attention.d_head, base(settings, 5e5), pairs=True),
        router=Router("input", rounds_gates=True, name="router"),
        experts=ExpertTensors("gate_up_proj", "", "down_proj", apart=False, turned=False),
        block="feed_forward",
        fused="halves",
        d_shared=d_ff,
        shared="shared_expert",
        d_dense=settings.whole("intermediate_size_mlp", default=d_ff),
        prefix=prefix,
    )


def _layers(settings: Settings) -> tuple[LayerKind, ...]:
    n_layers = settings.layers()
    step = settings.whole("interleave_moe_layer_step", default=1)
    listed = settings.indexes("moe_layers", n_layers)
    rotates = settings.indexes("no_rope_layers", 2)
    interval = settings.whole("no_rope_layer_interval", default=4)
    if rotates and len(rotates) != n_layers:
        raise settings.error("no_rope_layers", f"{n_layers} times 0 or 1, or an empty list")
    chunk = settings.whole("attention_chunk_size", default=8192)
    tuned = settings.flag("attn_temperature_tuning", True)
    grows = (settings.number("attn_scale", 0.1), settings.number("floor_scale", 8192.0))

    def kind(i: int) -> LayerKind:
        experts = i in listed if settings.has("moe_layers") else (i + 1) % step == 0
        if rotates[i] == 1 if rotates else (i + 1) % interval != 0:
            return LayerKind(experts, chunk=chunk)
        return LayerKind(experts, rope=False, temperature=grows if tuned else None)

    return tuple(kind(i) for i in range(n_layers))
