"""Mixtral: eight wide experts a layer, two a token, gates that sum to 1."""

from __future__ import annotations

from grok.architectures.huggingface.config import MoeConfig, Router
from grok.architectures.huggingface.families import shared
from grok.architectures.huggingface.rotary import base, read_rope
from grok.architectures.huggingface.settings import Settings


def read(settings: Settings) -> MoeConfig:
    """The config of a Mixtral."""
    attention = shared.heads(settings, kv_heads=8)
    return MoeConfig(
        family="mixtral",
        **shared.sizes(settings, 1e-5),
        n_experts=settings.whole("num_local_experts", "num_experts"),
        top_k=settings.whole("num_experts_per_tok"),
        d_ff=settings.whole("intermediate_size"),
        layers=shared.alike(settings, window=shared.window(settings)),
        attention=attention,
        rope=read_rope(settings, attention.d_head, base(settings, 1e6)),
        router=Router("softmax", renormalised=True),
        experts=shared.NUMBERED,
        block="block_sparse_moe",
    )
