"""Qwen2-MoE and Qwen3-MoE: narrow experts, dense layers among mixtures, and in the second
generation an expert with a gate of its own that every token passes through."""

from __future__ import annotations

from grok.architectures.huggingface.config import MoeConfig
from grok.architectures.huggingface.families import shared
from grok.architectures.huggingface.rotary import base, read_rope
from grok.architectures.huggingface.settings import Settings
from grok.errors import ConfigError


def read_qwen2(settings: Settings) -> MoeConfig:
    """The config of a Qwen2-MoE.

    Raises:
        ConfigError: sliding windows, of which versions of the reference disagree where they are.
    """
    if settings.flag("use_sliding_window", False):
        raise ConfigError(
            f"{settings.where}: use_sliding_window: found true; expected false. Sliding windows of "
            "this family are not supported here."
        )
    attention = shared.heads(settings, bias=settings.flag("qkv_bias", True))
    return MoeConfig(
        family="qwen2_moe",
        **shared.sizes(settings, 1e-6),
        n_experts=settings.whole("num_experts", "num_local_experts"),
        top_k=settings.whole("num_experts_per_tok"),
        d_ff=settings.whole("moe_intermediate_size"),
        layers=shared.sparse_steps(settings),
        attention=attention,
        rope=read_rope(settings, attention.d_head, base(settings, 1e4)),
        router=shared.softmax_router(settings),
        experts=shared.PROJECTIONS,
        block="mlp",
        d_shared=settings.whole("shared_expert_intermediate_size"),
        shared_gate=True,
        shared="shared_expert",
        d_dense=settings.whole("intermediate_size"),
    )


def read_qwen3(settings: Settings) -> MoeConfig:
    """The config of a Qwen3-MoE."""
    bias = settings.flag("attention_bias", False)
    attention = shared.heads(settings, kv_heads=4, bias=bias, out_bias=bias, norm="head")
    slides = settings.flag("use_sliding_window", False)
    return MoeConfig(
        family="qwen3_moe",
        **shared.sizes(settings, 1e-6),
        n_experts=settings.whole("num_experts", "num_local_experts"),
        top_k=settings.whole("num_experts_per_tok"),
        d_ff=settings.whole("moe_intermediate_size"),
        layers=shared.sparse_steps(settings, window=shared.window(settings) if slides else None),
        attention=attention,
        rope=read_rope(settings, attention.d_head, base(settings, 1e4)),
        router=shared.softmax_router(settings),
        experts=shared.PROJECTIONS,
        block="mlp",
        d_dense=settings.whole("intermediate_size"),
    )
