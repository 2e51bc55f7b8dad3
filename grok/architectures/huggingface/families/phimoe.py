"""Phi-3.5-MoE: LayerNorms with biases, and two experts chosen one after the other."""

from __future__ import annotations

from grok.architectures.huggingface.config import MoeConfig, Router
from grok.architectures.huggingface.families import shared
from grok.architectures.huggingface.rotary import base, parameters, read_rope
from grok.architectures.huggingface.settings import Settings


def read(settings: Settings) -> MoeConfig:
    """The config of a Phi-3.5-MoE; its context ends where its longer frequencies would begin."""
    settings.must_be("num_experts_per_tok", 2, otherwise="Another number of experts a token")
    bias = settings.flag("attention_bias", False)
    attention = shared.heads(settings, bias=bias, out_bias=bias)
    sizes = shared.sizes(settings, 1e-5)
    inner = parameters(settings)
    if inner.text("rope_type", inner.text("type", "default")) == "longrope":
        found = inner if inner.has("original_max_position_embeddings") else settings
        original = found.whole("original_max_position_embeddings")
        sizes["context_length"] = min(sizes["context_length"], original)
    return MoeConfig(
        family="phimoe",
        **sizes,
        n_experts=settings.whole("num_local_experts", "num_experts"),
        top_k=2,
        d_ff=settings.whole("intermediate_size"),
        layers=shared.alike(settings, window=shared.window(settings)),
        attention=attention,
        rope=read_rope(settings, attention.d_head, base(settings, 1e6)),
        router=Router(
            "sparsemixer",
            near=2 * settings.number("router_jitter_noise", 0.01, positive=False),
            rounds_gates=True,
        ),
        experts=shared.NUMBERED,
        block="block_sparse_moe",
        layer_norm=True,
        head_bias=settings.flag("lm_head_bias", False),
    )
