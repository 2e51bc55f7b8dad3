"""GLM-4.5 and 4.6: DeepSeek-V3's mixture over attention with grouped heads of which half turns."""

from __future__ import annotations

from grok.architectures.huggingface.config import MoeConfig
from grok.architectures.huggingface.families import deepseek, shared
from grok.architectures.huggingface.rotary import base, read_rope, turned_width
from grok.architectures.huggingface.settings import Settings


def read(settings: Settings) -> MoeConfig:
    """The config of a GLM-4.5."""
    attention = shared.heads(
        settings,
        kv_heads=8,
        bias=settings.flag("attention_bias", False),
        norm="head" if settings.flag("use_qk_norm", False) else "",
    )
    width = turned_width(settings, attention.d_head, 0.5)
    return MoeConfig(
        family="glm4_moe",
        **shared.sizes(settings, 1e-5),
        n_experts=settings.whole("n_routed_experts", "num_local_experts", "num_experts"),
        top_k=settings.whole("num_experts_per_tok"),
        d_ff=settings.whole("moe_intermediate_size"),
        layers=shared.first_dense(settings, 1),
        attention=attention,
        rope=read_rope(settings, width, base(settings, 1e4)),
        router=deepseek.corrected(settings),
        experts=shared.PROJECTIONS,
        block="mlp",
        d_shared=deepseek.shared_width(settings),
        shared="shared_experts",
        d_dense=settings.whole("intermediate_size"),
    )
