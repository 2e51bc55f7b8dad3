"""Small models in safetensors files, with what surrounds routers in real ones."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lens.errors import LensError

RNG = np.random.default_rng(71)
E, D = 4, 24
ROUTER = "model.layers.{}.block_sparse_moe.gate.weight"  # Mixtral's
CONFIG = {"model_type": "mixtral", "num_experts_per_tok": 2, "num_local_experts": E}

# By model_type: what names the layers, their router, and the norm before it.
FAMILIES = {
    "mixtral": ("model.layers.{}.", "block_sparse_moe.gate.weight", "post_attention_layernorm"),
    "grok-2": ("model.layers.{}.", "block_sparse_moe.gate.weight", "pre_moe_norm"),
    "phimoe": ("model.layers.{}.", "block_sparse_moe.gate.weight", "post_attention_layernorm"),
    "qwen3_moe": ("model.layers.{}.", "mlp.gate.weight", "post_attention_layernorm"),
    "olmoe": ("model.layers.{}.", "mlp.gate.weight", "post_attention_layernorm"),
    "deepseek_v3": ("model.layers.{}.", "mlp.gate.weight", "post_attention_layernorm"),
    "gpt_oss": ("model.layers.{}.", "mlp.router.weight", "post_attention_layernorm"),
    "dbrx": ("transformer.blocks.{}.", "ffn.router.layer.weight", "norm_attn_norm.norm_2"),
    "llama4": (
        "language_model.model.layers.{}.",
        "feed_forward.router.weight",
        "post_attention_layernorm",
    ),
    "jamba": ("model.layers.{}.", "feed_forward.router.weight", "pre_ff_layernorm"),
}


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model(family: str, layers: list[int], n_experts: int = E) -> dict[str, np.ndarray]:
    """Tensors of a model with experts in these layers and none in the ones between."""
    place, router, norm = FAMILIES[family]
    tensors = {"model.embed_tokens.weight": numbers(50, D), "lm_head.weight": numbers(50, D)}
    for layer in range(max(layers) + 1):
        here = place.format(layer)
        tensors[f"{here}self_attn.q_proj.weight"] = numbers(D, D)
        tensors[f"{here}{norm}.weight"] = 1 + numbers(D) / 10
        tensors[f"{here}input_layernorm.weight"] = numbers(D)
        if layer in layers:
            tensors[here + router] = numbers(n_experts, D)
            tensors[f"{here}mlp.shared_expert_gate.weight"] = numbers(1, D)
            tensors[f"{here}mlp.experts.0.gate_proj.weight"] = numbers(2 * D, D)
        else:
            tensors[f"{here}mlp.gate_proj.weight"] = numbers(2 * D, D)
    return tensors


def write(folder: Path, tensors: dict[str, np.ndarray], config: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


class Bytes:
    """Byte ranges of a text in memory, as another transport would serve them."""

    where = "memory"

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.asked: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.asked.append((offset, length))
        if offset + length > self.size:
            raise LensError(f"{self.where}: asked for more than there is.")
        return self.content[offset : offset + length]


class Served:
    """A model's files in memory."""

    where = name = "served"
    at_once = 1

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: Bytes(path.read_bytes()) for path in folder.iterdir()}

    def names(self) -> list[str]:
        return sorted(self.files)

    def open(self, name: str) -> Bytes:
        return self.files[name]
