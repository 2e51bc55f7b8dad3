"""OLMoE: 64 narrow experts a layer, eight a token, gates as the softmax leaves them."""

from __future__ import annotations

from grok.architectures.huggingface.config import MoeConfig
from grok.architectures.huggingface.families import shared
from grok.architectures.huggingface.rotary import base, read_rope
from grok.architectures.huggingface.settings import Settings


def read(settings: Settings) -> MoeConfig:
    """The config of an OLMoE; queries and keys are normed whole, before heads are cut."""
    bias = settings.flag("attention_bias", False)
    attention = shared.heads(
        settings,
        bias=bias,
        out_bias=bias,
        norm="whole",
        clip=settings.number("clip_qkv", None),
    )
    return MoeConfig(
        family="olmoe",
        **shared.sizes(settings, 1e-5),
        n_experts=settings.whole("num_experts", "num_local_experts"),
        top_k=settings.whole("num_experts_per_tok"),
        d_ff=settings.whole("intermediate_size"),
        layers=shared.alike(settings),
        attention=attention,
        rope=read_rope(settings, attention.d_head, base(settings, 1e4)),
        router=shared.softmax_router(settings),
        experts=shared.PROJECTIONS,
        block="mlp",
    )
