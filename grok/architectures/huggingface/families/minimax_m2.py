"""MiniMax-M2: sigmoids with a correction beside the gate, queries and keys normed whole."""

from __future__ import annotations

from grok.architectures.huggingface.config import MoeConfig, Router
from grok.architectures.huggingface.families import shared
from grok.architectures.huggingface.rotary import base, read_rope, turned_width
from grok.architectures.huggingface.settings import Settings


def read(settings: Settings) -> MoeConfig:
    """The config of a MiniMax-M2."""
    attention = shared.heads(settings, kv_heads=8, norm="whole")
    width = turned_width(settings, attention.d_head, 1.0)
    return MoeConfig(
        family="minimax_m2",
        **shared.sizes(settings, 1e-6),
        n_experts=settings.whole("num_local_experts", "num_experts"),
        top_k=settings.whole("num_experts_per_tok"),
        d_ff=settings.whole("intermediate_size"),
        layers=shared.alike(settings),
        attention=attention,
        rope=read_rope(settings, width, base(settings, 5e6)),
        router=Router("sigmoid", renormalised=True, correction="e_score_correction_bias"),
        experts=shared.NUMBERED,
        block="block_sparse_moe",
    )
