"""GraniteMoe: four multipliers along the way, and experts whose two branches are one product."""

from __future__ import annotations

from grok.architectures.huggingface.config import ExpertTensors, MoeConfig, Multipliers, Router
from grok.architectures.huggingface.families import shared
from grok.architectures.huggingface.rotary import base, read_rope
from grok.architectures.huggingface.settings import Settings


def read(settings: Settings) -> MoeConfig:
    """The config of a GraniteMoe."""
    bias = settings.flag("attention_bias", False)
    attention = shared.heads(
        settings, bias=bias, out_bias=bias, scale=settings.number("attention_multiplier", 1.0)
    )
    return MoeConfig(
        family="granitemoe",
        **shared.sizes(settings, 1e-6),
        n_experts=settings.whole("num_local_experts", "num_experts"),
        top_k=settings.whole("num_experts_per_tok"),
        d_ff=settings.whole("intermediate_size"),
        layers=shared.alike(settings),
        attention=attention,
        rope=read_rope(settings, attention.d_head, base(settings, 1e4)),
        router=Router("chosen", rounds_gates=True, name="router.layer"),
        experts=ExpertTensors("input_linear", "", "output_linear", apart=False),
        block="block_sparse_moe",
        fused="halves",
        multipliers=Multipliers(
            settings.number("embedding_multiplier", 1.0),
            settings.number("residual_multiplier", 1.0),
            1 / settings.number("logits_scaling", 1.0),
        ),
    )
