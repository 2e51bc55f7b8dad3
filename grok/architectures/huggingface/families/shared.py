"""What the configs of all families say in the same words."""

from __future__ import annotations

from typing import Any

from grok.architectures.huggingface.config import (
    LONGEST_CONTEXT,
    Attention,
    ExpertTensors,
    LayerKind,
    Router,
)
from grok.architectures.huggingface.settings import Settings
from grok.errors import ConfigError, plain

PROJECTIONS = ExpertTensors("gate_proj", "up_proj", "down_proj")
NUMBERED = ExpertTensors("w1", "w3", "w2")


def sizes(settings: Settings, epsilon: float) -> dict[str, Any]:
    """Sizes and switches that stand at the top of every config.

    Args:
        settings: the config.
        epsilon: of the norms, where the config does not say.

    Returns:
        Fields of `MoeConfig`.
    """
    settings.must_be("hidden_act", "silu", otherwise="Another activation")
    vocab_size = settings.whole("vocab_size")
    context = settings.whole("max_position_embeddings")
    return {
        "vocab_size": vocab_size,
        "d_model": settings.whole("hidden_size"),
        "context_length": min(context, LONGEST_CONTEXT),
        "eos_tokens": settings.ends(vocab_size),
        "norm_epsilon": settings.number("rms_norm_eps", epsilon),
        "tied": settings.flag("tie_word_embeddings", False),
        "where": settings.where,
        **stored(settings),
    }


def softmax_router(settings: Settings) -> Router:
    """A softmax over all experts, whose gates may be divided by their sum."""
    return Router("softmax", renormalised=settings.flag("norm_topk_prob", False), rounds_gates=True)


def stored(settings: Settings) -> dict[str, Any]:
    """How matrices are stored: plain, 8-bit in blocks, or experts in 4 bits.

    Raises:
        ConfigError: another kind of quantisation.
    """
    if not settings.has("quantization_config"):
        return {}
    inner = settings.part("quantization_config")
    method = inner.text("quant_method", "")
    if method == "mxfp4":
        return {"mxfp4": True}
    if method == "fp8":
        inner.must_be("fmt", "e4m3", otherwise="Another 8-bit format")
        block = inner.numbers("weight_block_size", 2)
        return {"fp8_block": (int(block[0]), int(block[1]))}
    raise ConfigError(
        f"{inner.where}: quant_method: found '{plain(method, 40)}'; expected mxfp4 or fp8. Use a "
        "copy of the model that is not quantized, or is in one of these."
    )


def heads(settings: Settings, *, kv_heads: int | None = None, **more: Any) -> Attention:
    """Attention with as many key heads as the config says.

    Args:
        settings: the config.
        kv_heads: where it does not say; None: one for each query head.
        more: other fields of `Attention`.

    Raises:
        ConfigError: heads would have no size.
    """
    width = settings.whole("hidden_size")
    most = {} if settings.has("head_dim") else {"most": width}  # each head takes a part of it
    n_heads = settings.whole("num_attention_heads", **most)
    n_kv_heads = settings.whole("num_key_value_heads", default=kv_heads or n_heads)
    d_head = settings.whole("head_dim", default=width // n_heads)
    return Attention(n_heads, n_kv_heads, d_head, **{"scale": d_head**-0.5, **more})


def window(settings: Settings) -> int | None:
    """The window of every layer; None where the config has none."""
    found = settings.whole("sliding_window", default=None)
    return None if found is None else int(found)


def alike(settings: Settings, **kind: Any) -> tuple[LayerKind, ...]:
    """Layers that are all alike."""
    return (LayerKind(**kind),) * settings.layers()


def sparse_steps(settings: Settings, **kind: Any) -> tuple[LayerKind, ...]:
    """Layers of which some are dense: those listed, and all between every so many."""
    n_layers = settings.layers()
    dense = settings.indexes("mlp_only_layers", n_layers)
    step = settings.whole("decoder_sparse_step", default=1)
    return tuple(
        LayerKind(experts=i not in dense and (i + 1) % step == 0, **kind) for i in range(n_layers)
    )


def first_dense(settings: Settings, default: int) -> tuple[LayerKind, ...]:
    """Layers of which the first few are dense."""
    first = settings.whole("first_k_dense_replace", default=default, least=0)
    return tuple(LayerKind(experts=i >= first) for i in range(settings.layers()))
