"""Models as their repositories hold them: tensors by name, dtype and shape, no giant in memory.

Names, shapes and numbers of layers, experts and files are those of the releases; routers, their
biases and the norms before them are random, everything else is zeros that nobody holds. How
tensors are dealt out to files is ours: in order, files of equal size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.hub.server import Content, Sparse
from grok.checkpoints.routing.names import place_of
from grok.checkpoints.safetensors import ITEM_BYTES
from grok.checkpoints.tensor_index import INDEX

Tensor = tuple[str, str, tuple[int, ...]]  # name, dtype, shape


@dataclass(frozen=True)
class Released:
    """A model on the Hub.

    Attributes:
        name: of the release.
        config: what its config.json says, as far as extraction looks.
        n_files: of its weights.
        tensors: gives every tensor, in the order of its files.
        small: ends of the names of the tensors that hold numbers here, the routers' first.
    """

    name: str
    config: dict[str, Any]
    n_files: int
    tensors: Callable[[], Iterator[Tensor]]
    small: tuple[str, ...]


def files_of_model(model: Released, seed: int = 0) -> dict[str, Content]:
    """The repository of a model: its config, its index and its safetensors files."""
    tensors = list(model.tensors())
    sizes = [ITEM_BYTES[dtype] * math.prod(shape) for _, dtype, shape in tensors]
    share = sum(sizes) / model.n_files
    of_file: list[list[int]] = [[] for _ in range(model.n_files)]
    before = 0
    for i, size in enumerate(sizes):
        of_file[min(int(before / share), model.n_files - 1)].append(i)
        before += size
    rng = np.random.default_rng(seed)
    files: dict[str, Content] = {"config.json": json.dumps(model.config).encode()}
    where = {}
    for number, members in enumerate(of_file, 1):
        name = f"model-{number:05d}-of-{model.n_files:05d}.safetensors"
        where.update({tensors[i][0]: name for i in members})
        files[name] = _file([tensors[i] for i in members], model.small, rng)
    files[INDEX] = json.dumps({"metadata": {}, "weight_map": where}).encode()
    return files


def needed_bytes(model: Released) -> int:
    """Bytes of the routers of the model's layers, of their biases and of the norms before them."""
    layers = int(model.config.get("num_hidden_layers") or model.config["n_layers"])
    routed = {place_of(n) for n, _, _ in model.tensors() if n.endswith(model.small[:1])}
    beyond = {place for place in routed if place and int(place.split(".")[-2]) >= layers}
    return sum(
        ITEM_BYTES[dtype] * math.prod(shape)
        for name, dtype, shape in model.tensors()
        if name.endswith(model.small) and place_of(name) in routed - beyond
    )


def _file(tensors: list[Tensor], small: tuple[str, ...], rng: np.random.Generator) -> Sparse:
    header, at, numbers = {}, 0, {}
    for name, dtype, shape in tensors:
        size = ITEM_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        if name.endswith(small):
            numbers[at] = _random(dtype, shape, rng)
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    head = len(text).to_bytes(8, "little") + text
    return Sparse(start + at, {0: head, **{start + offset: v for offset, v in numbers.items()}})


def _random(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> bytes:
    values = rng.standard_normal(shape, np.float32) + np.float32(len(shape) == 1)
    if dtype == "F32":
        return values.tobytes()
    assert dtype == "BF16", dtype
    return (values.view(np.uint32) >> 16).astype("<u2").tobytes()


def _mixtral() -> Iterator[Tensor]:
    d, f, kv = 4096, 14336, 1024
    yield "model.embed_tokens.weight", "BF16", (32000, d)
    for layer in range(32):
        at = f"model.layers.{layer}."
        yield at + "block_sparse_moe.gate.weight", "BF16", (8, d)
        for e in range(8):
            for name, shape in (("w1", (f, d)), ("w2", (d, f)), ("w3", (f, d))):
                yield f"{at}block_sparse_moe.experts.{e}.{name}.weight", "BF16", shape
        yield from _attention(at + "self_attn.", d, d, kv)
        yield from _norms(at, d)
    yield "model.norm.weight", "BF16", (d,)
    yield "lm_head.weight", "BF16", (32000, d)


def _gated(
    vocab: int, d: int, f: int, n_layers: int, n_experts: int, q: int, kv: int, norms: int
) -> Iterator[Tensor]:
    """OLMoE and Qwen3-MoE, which norm queries and keys over `norms` or `norms` and fewer values."""
    yield "model.embed_tokens.weight", "BF16", (vocab, d)
    for layer in range(n_layers):
        at = f"model.layers.{layer}."
        yield at + "mlp.gate.weight", "BF16", (n_experts, d)
        for e in range(n_experts):
            for name, shape in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f))):
                yield f"{at}mlp.experts.{e}.{name}_proj.weight", "BF16", shape
        yield from _attention(at + "self_attn.", d, q, kv)
        for name in ("q_norm", "k_norm"):
            yield f"{at}self_attn.{name}.weight", "BF16", (norms,)
        yield from _norms(at, d)
    yield "model.norm.weight", "BF16", (d,)
    yield "lm_head.weight", "BF16", (vocab, d)


def _deepseek() -> Iterator[Tensor]:
    d, f, wide, vocab = 7168, 2048, 18432, 129280

    def quantized(name: str, rows: int, columns: int) -> Iterator[Tensor]:
        yield f"{name}.weight", "F8_E4M3", (rows, columns)
        yield f"{name}.weight_scale_inv", "F32", (-(-rows // 128), -(-columns // 128))

    def feed_forward(name: str, inner: int) -> Iterator[Tensor]:
        yield from quantized(f"{name}gate_proj", inner, d)
        yield from quantized(f"{name}up_proj", inner, d)
        yield from quantized(f"{name}down_proj", d, inner)

    yield "model.embed_tokens.weight", "BF16", (vocab, d)
    for layer in range(62):  # the last predicts one more token, and is no layer of the model
        at = f"model.layers.{layer}."
        yield from quantized(at + "self_attn.q_a_proj", 1536, d)
        yield at + "self_attn.q_a_layernorm.weight", "BF16", (1536,)
        yield from quantized(at + "self_attn.q_b_proj", 24576, 1536)
        yield from quantized(at + "self_attn.kv_a_proj_with_mqa", 576, d)
        yield at + "self_attn.kv_a_layernorm.weight", "BF16", (512,)
        yield from quantized(at + "self_attn.kv_b_proj", 32768, 512)
        yield from quantized(at + "self_attn.o_proj", d, 16384)
        if layer < 3:
            yield from feed_forward(at + "mlp.", wide)
        else:
            yield at + "mlp.gate.weight", "BF16", (256, d)
            yield at + "mlp.gate.e_score_correction_bias", "F32", (256,)
            yield from feed_forward(at + "mlp.shared_experts.", f)
            for e in range(256):
                yield from feed_forward(f"{at}mlp.experts.{e}.", f)
        yield from _norms(at, d)
    yield "model.norm.weight", "BF16", (d,)
    yield "lm_head.weight", "BF16", (vocab, d)


def _gpt_oss() -> Iterator[Tensor]:
    d, f, n, vocab = 2880, 2880, 128, 201088
    yield "model.embed_tokens.weight", "BF16", (vocab, d)
    for layer in range(36):
        at = f"model.layers.{layer}."
        yield at + "mlp.router.weight", "BF16", (n, d)
        yield at + "mlp.router.bias", "BF16", (n,)
        for name, width in (("gate_up_proj", 2 * f), ("down_proj", d)):
            yield f"{at}mlp.experts.{name}_blocks", "U8", (n, width, 90, 16)
            yield f"{at}mlp.experts.{name}_scales", "U8", (n, width, 90)
            yield f"{at}mlp.experts.{name}_bias", "BF16", (n, width)
        for name, rows, columns in (("q", 4096, d), ("k", 512, d), ("v", 512, d), ("o", d, 4096)):
            yield f"{at}self_attn.{name}_proj.weight", "BF16", (rows, columns)
            yield f"{at}self_attn.{name}_proj.bias", "BF16", (rows,)
        yield f"{at}self_attn.sinks", "BF16", (64,)
        yield from _norms(at, d)
    yield "model.norm.weight", "BF16", (d,)
    yield "lm_head.weight", "BF16", (vocab, d)


def _dbrx() -> Iterator[Tensor]:
    d, f, n, vocab = 6144, 10752, 16, 100352
    yield "transformer.wte.weight", "BF16", (vocab, d)
    for layer in range(40):
        at = f"transformer.blocks.{layer}."
        yield at + "ffn.router.layer.weight", "BF16", (n, d)
        for name in ("v1", "w1", "w2"):
            yield f"{at}ffn.experts.mlp.{name}", "BF16", (n * f, d)
        yield at + "norm_attn_norm.attn.Wqkv.weight", "BF16", (8192, d)
        yield at + "norm_attn_norm.attn.out_proj.weight", "BF16", (d, d)
        yield at + "norm_attn_norm.norm_1.weight", "BF16", (d,)
        yield at + "norm_attn_norm.norm_2.weight", "BF16", (d,)
    yield "transformer.norm_f.weight", "BF16", (d,)
    yield "lm_head.weight", "BF16", (vocab, d)


def _attention(at: str, d: int, q: int, kv: int) -> Iterator[Tensor]:
    for name, shape in (("q", (q, d)), ("k", (kv, d)), ("v", (kv, d)), ("o", (d, q))):
        yield f"{at}{name}_proj.weight", "BF16", shape


def _norms(at: str, d: int) -> Iterator[Tensor]:
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield f"{at}{name}.weight", "BF16", (d,)


AFTER = "post_attention_layernorm.weight"
MODELS = (
    Released(
        "Mixtral-8x7B",
        {"model_type": "mixtral", "num_experts_per_tok": 2, "num_local_experts": 8,
         "hidden_size": 4096, "num_hidden_layers": 32},
        19,
        _mixtral,
        ("block_sparse_moe.gate.weight", AFTER),
    ),
    Released(
        "OLMoE-1B-7B",
        {"model_type": "olmoe", "num_experts_per_tok": 8, "num_experts": 64,
         "hidden_size": 2048, "num_hidden_layers": 16},
        3,
        lambda: _gated(50304, 2048, 1024, 16, 64, 2048, 2048, 2048),
        ("mlp.gate.weight", AFTER),
    ),
    Released(
        "Qwen3-30B-A3B",
        {"model_type": "qwen3_moe", "num_experts_per_tok": 8, "num_experts": 128,
         "hidden_size": 2048, "num_hidden_layers": 48},
        16,
        lambda: _gated(151936, 2048, 768, 48, 128, 4096, 512, 128),
        ("mlp.gate.weight", AFTER),
    ),
    Released(
        "DeepSeek-V3",
        {"model_type": "deepseek_v3", "num_experts_per_tok": 8, "n_routed_experts": 256,
         "hidden_size": 7168, "num_hidden_layers": 61, "scoring_func": "sigmoid"},
        163,
        _deepseek,
        ("mlp.gate.weight", "e_score_correction_bias", AFTER),
    ),
    Released(
        "gpt-oss-120b",
        {"model_type": "gpt_oss", "num_experts_per_tok": 4, "num_local_experts": 128,
         "hidden_size": 2880, "num_hidden_layers": 36},
        15,
        _gpt_oss,
        ("mlp.router.weight", "mlp.router.bias", AFTER),
    ),
    Released(
        "DBRX",
        {"model_type": "dbrx", "d_model": 6144, "n_layers": 40,
         "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4}},
        61,
        _dbrx,
        ("ffn.router.layer.weight", "norm_attn_norm.norm_2.weight"),
    ),
)  # fmt: skip
