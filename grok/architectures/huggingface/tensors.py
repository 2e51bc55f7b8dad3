"""Parameters of a model by their leaf, and the tensors of a folder that hold them.

Specs give matrices the shape in which they are used, [in, out]; files and memory hold them turned.
"""

from __future__ import annotations

from collections.abc import Iterator

from grok.architectures.huggingface.config import LayerKind, MoeConfig
from grok.checkpoints.tensor_spec import TensorSpec

# Leaves of the norms within a layer; those of layer norms have a bias beside them.
NORM_1, NORM_2, LAST_NORM = "norm_1", "norm_2", "norm"
EMBEDDING, HEAD = "embedding", "head"
ROUTER, ROUTER_BIAS, CORRECTION = "router", "router_bias", "correction"
FIRST, SECOND, DOWN = "experts/first", "experts/second", "experts/down"
FIRST_BIAS, DOWN_BIAS = "experts/first_bias", "experts/down_bias"
SHARED_GATE = "shared/weight"
BRANCHES = ("gate", "up", "down")
MXFP4_BYTES = 17 / 32  # of a value, with its share of a scale


def outer_specs(config: MoeConfig) -> tuple[TensorSpec, ...]:
    """What stands outside the layers, the embedding first."""
    c, at = config, config.prefix
    table = (c.vocab_size, c.d_model)
    rows = (0, c.vocab_size)
    specs = [
        TensorSpec(EMBEDDING, table, (f"{at}model.embed_tokens.weight",), item_bytes=2, split=rows),
        *_norm(c, LAST_NORM, f"{at}model.norm"),
    ]
    if not c.tied:
        specs.append(TensorSpec(HEAD, table, (f"{at}lm_head.weight",), item_bytes=2, split=rows))
    if c.head_bias:
        specs.append(TensorSpec(f"{HEAD}_bias", (c.vocab_size,), (f"{at}lm_head.bias",)))
    return tuple(specs)


def layer_specs(config: MoeConfig, layer: int) -> tuple[TensorSpec, ...]:
    """A layer's parameters, in the order in which they are used."""
    at = f"{config.prefix}model.layers.{layer}."
    kind = config.layers[layer]
    return (
        *_norm(config, NORM_1, f"{at}input_layernorm"),
        *_attention(config, f"{at}self_attn."),
        *_norm(config, NORM_2, f"{at}post_attention_layernorm"),
        *_block(config, kind, f"{at}{config.block}."),
    )


def _norm(config: MoeConfig, leaf: str, name: str) -> Iterator[TensorSpec]:
    yield TensorSpec(leaf, (config.d_model,), (f"{name}.weight",))
    if config.layer_norm:
        yield TensorSpec(f"{leaf}_bias", (config.d_model,), (f"{name}.bias",))


def matrix(
    leaf: str, rows: int, columns: int, name: str, *, bias: bool = False, units: int = 0
) -> Iterator[TensorSpec]:
    """A matrix [rows, columns], and its bias.

    Args:
        leaf: its key.
        rows, columns: its shape as it is used.
        name: of its tensor, without its ending.
        bias: whether it has one.
        units: of its columns, by which it may be split over devices; 0: it is not.
    """
    split = (1, units) if units else None
    yield TensorSpec(
        leaf,
        (rows, columns),
        (f"{name}.weight",),
        transposed=True,
        as_stored=True,
        quantizable=True,
        item_bytes=2,
        split=split,
    )
    if bias:
        yield TensorSpec(f"{leaf}_bias", (columns,), (f"{name}.bias",))


def _attention(config: MoeConfig, at: str) -> Iterator[TensorSpec]:
    a, d = config.attention, config.d_model
    if a.latent is not None:
        yield from _latent_attention(config, at)
        return
    queries, keys = a.n_heads * a.d_head, a.n_kv_heads * a.d_head
    yield from matrix("q", d, queries, f"{at}q_proj", bias=a.bias)
    yield from matrix("k", d, keys, f"{at}k_proj", bias=a.bias)
    yield from matrix("v", d, keys, f"{at}v_proj", bias=a.bias)
    if a.norm in ("head", "whole"):
        widths = (a.d_head, a.d_head) if a.norm == "head" else (queries, keys)
        yield TensorSpec("q_norm", (widths[0],), (f"{at}q_norm.weight",))
        yield TensorSpec("k_norm", (widths[1],), (f"{at}k_norm.weight",))
    if a.sinks:
        yield TensorSpec("sinks", (a.n_heads,), (f"{at}sinks",))
    yield from matrix("o", queries, d, f"{at}o_proj", bias=a.out_bias)


def _latent_attention(config: MoeConfig, at: str) -> Iterator[TensorSpec]:
    a, d = config.attention, config.d_model
    assert a.latent is not None
    own = a.latent
    queries = a.n_heads * (own.plain + own.turned)
    if own.q_rank is None:
        yield from matrix("q", d, queries, f"{at}q_proj")
    else:
        yield from matrix("q_a", d, own.q_rank, f"{at}q_a_proj", bias=own.bias)
        yield TensorSpec("q_a_norm", (own.q_rank,), (f"{at}q_a_layernorm.weight",))
        yield from matrix("q_b", own.q_rank, queries, f"{at}q_b_proj")
    width = own.kv_rank + own.turned
    yield from matrix("kv_a", d, width, f"{at}kv_a_proj_with_mqa", bias=own.bias)
    yield TensorSpec("kv_a_norm", (own.kv_rank,), (f"{at}kv_a_layernorm.weight",))
    yield from matrix("kv_b", own.kv_rank, a.n_heads * (own.plain + own.value), f"{at}kv_b_proj")
    yield from matrix("o", a.n_heads * own.value, d, f"{at}o_proj", bias=a.out_bias)


def _block(config: MoeConfig, kind: LayerKind, at: str) -> Iterator[TensorSpec]:
    if not kind.experts:
        yield from _swiglu("dense", config.d_model, config.d_dense, at)
        return
    c, router = config, config.router
    yield TensorSpec(
        ROUTER, (c.d_model, c.n_experts), (f"{at}{router.name}.weight",), transposed=True
    )
    if router.bias:
        yield TensorSpec(ROUTER_BIAS, (c.n_experts,), (f"{at}{router.name}.bias",))
    if router.correction:
        yield TensorSpec(CORRECTION, (c.n_experts,), (f"{at}{router.correction}",))
    if c.d_shared:
        yield from _swiglu("shared", c.d_model, c.d_shared, f"{at}{c.shared}.")
    if c.shared_gate:
        yield from matrix(SHARED_GATE, c.d_model, 1, f"{at}{c.shared}_gate")
    yield from _experts(c, at)


def _swiglu(leaf: str, d: int, f: int, at: str) -> Iterator[TensorSpec]:
    for branch in BRANCHES:
        rows, columns = (f, d) if branch == "down" else (d, f)
        yield from matrix(f"{leaf}/{branch}", rows, columns, f"{at}{branch}_proj")


def _experts(config: MoeConfig, at: str) -> Iterator[TensorSpec]:
    c, stored = config, config.experts
    first = c.d_ff if stored.second else 2 * c.d_ff
    yield _expert_matrix(c, FIRST, c.d_model, first, at, stored.first)
    if stored.second:
        yield _expert_matrix(c, SECOND, c.d_model, c.d_ff, at, stored.second)
    yield _expert_matrix(c, DOWN, c.d_ff, c.d_model, at, stored.down)
    if stored.biases:
        for leaf, width, name in (
            (FIRST_BIAS, first, stored.first),
            (DOWN_BIAS, c.d_model, stored.down),
        ):
            yield TensorSpec(
                leaf,
                (c.n_experts, width),
                (f"{at}experts.{name}_bias",),
                per_expert=True,
                item_bytes=2,
                split=(0, c.n_experts),
            )


def _expert_matrix(
    config: MoeConfig, leaf: str, rows: int, columns: int, at: str, name: str
) -> TensorSpec:
    """One of an expert's matrices, of all experts."""
    c, stored = config, config.experts
    if stored.apart:
        names = tuple(f"{at}experts.{e}.{name}.weight" for e in range(c.n_experts))
    elif stored.turned:
        names = (f"{at}{name}.weight",)
    else:
        names = (f"{at}experts.{name}",)
    return TensorSpec(
        leaf,
        (c.n_experts, rows, columns),
        names,
        transposed=stored.turned,
        as_stored=True,
        per_expert=True,
        quantizable=True,
        item_bytes=MXFP4_BYTES if c.mxfp4 else 1 if c.fp8_block else 2,
        split=(0, c.n_experts),
    )
