"""DeepSeek-V2 and DeepSeek-V3 (also R1, and Kimi-K2): latent attention, the first layers dense,
experts chosen within groups, shared experts added as they are."""

from __future__ import annotations

from typing import Any

from grok.architectures.huggingface.config import Attention, Latent, MoeConfig, Rope, Router
from grok.architectures.huggingface.families import shared
from grok.architectures.huggingface.rotary import base, magnitude, parameters, read_rope
from grok.architectures.huggingface.settings import Settings
from grok.errors import ConfigError


def read_v2(settings: Settings) -> MoeConfig:
    """The config of a DeepSeek-V2.

    Raises:
        ConfigError: another way to choose experts.
    """
    method = settings.text("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise settings.error("topk_method", "greedy or group_limited_greedy")
    grouped = method != "greedy"
    router = Router(
        "softmax",
        scale=settings.number("routed_scaling_factor", 1.0),
        groups=groups(settings) if grouped else None,
        wide=True,
    )
    return MoeConfig(family="deepseek_v2", router=router, **_common(settings, first_dense=0))


def read_v3(settings: Settings) -> MoeConfig:
    """The config of a DeepSeek-V3 or of a Kimi-K2."""
    return MoeConfig(
        family="deepseek_v3",
        router=corrected(settings, scale=2.5, of=(8, 4)),
        **_common(settings, first_dense=3),
    )


def groups(settings: Settings, default: tuple[int, int] = (1, 1)) -> tuple[int, int] | None:
    """(groups, those that stay); None where there is one group or all stay.

    Args:
        settings: the config.
        default: where it does not say.
    """
    n_groups = settings.whole("n_group", default=default[0])
    stay = settings.whole("topk_group", default=min(default[1], n_groups))
    return None if n_groups == 1 or stay == n_groups else (n_groups, stay)


def corrected(settings: Settings, *, scale: float = 1.0, of: tuple[int, int] = (1, 1)) -> Router:
    """A router whose sigmoids are corrected by a bias while experts are chosen.

    Args:
        settings: the config.
        scale: on the gates, where the config does not say.
        of: groups and those that stay, where the config does not say.
    """
    return Router(
        "sigmoid",
        renormalised=settings.flag("norm_topk_prob", True),
        scale=settings.number("routed_scaling_factor", scale),
        groups=groups(settings, of),
        correction="gate.e_score_correction_bias",
        wide=True,
    )


def shared_width(settings: Settings) -> int:
    """Width of all shared experts together; 0 for none."""
    n = settings.whole("n_shared_experts", default=0, least=0)
    return int(n) * int(settings.whole("moe_intermediate_size"))


def _common(settings: Settings, *, first_dense: int) -> dict[str, Any]:
    settings.must_be("moe_layer_freq", 1, otherwise="A mixture in every so many layers")
    attention, rope = _latent_attention(settings)
    return {
        **shared.sizes(settings, 1e-6),
        "n_experts": settings.whole("n_routed_experts", "num_local_experts", "num_experts"),
        "top_k": settings.whole("num_experts_per_tok"),
        "d_ff": settings.whole("moe_intermediate_size"),
        "layers": shared.first_dense(settings, first_dense),
        "attention": attention,
        "rope": rope,
        "experts": shared.PROJECTIONS,
        "block": "mlp",
        "d_shared": shared_width(settings),
        "shared": "shared_experts",
        "d_dense": settings.whole("intermediate_size"),
    }


def _latent_attention(settings: Settings) -> tuple[Attention, Rope]:
    latent = Latent(
        q_rank=settings.whole("q_lora_rank", default=None),
        kv_rank=settings.whole("kv_lora_rank"),
        plain=settings.whole("qk_nope_head_dim"),
        turned=settings.whole("qk_rope_head_dim"),
        value=settings.whole("v_head_dim"),
        bias=settings.flag("attention_bias", False),
    )
    rope = read_rope(
        settings,
        latent.turned,
        base(settings, 1e4),
        pairs=settings.flag("rope_interleave", True),
    )
    n_heads = settings.whole("num_attention_heads")
    d_head = latent.plain + latent.turned
    inner = parameters(settings)
    scale = d_head**-0.5
    if inner.text("rope_type", inner.text("type", "default")) != "default":
        scale *= (
            magnitude(inner.number("factor"), inner.number("mscale_all_dim", 0.0, positive=False))
            ** 2
        )
    if not settings.whole("num_key_value_heads", default=n_heads) == n_heads:
        raise ConfigError(
            f"{settings.where}: num_key_value_heads: found "
            f"{settings.whole('num_key_value_heads')}; expected {n_heads}, one for each query "
            "head, since all come from one latent."
        )
    return Attention(n_heads, n_heads, d_head, scale, out_bias=latent.bias, latent=latent), rope
