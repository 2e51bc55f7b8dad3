"""A folder as Hugging Face stores models: which family it is of, and its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grok.architectures.huggingface import tensors
from grok.architectures.huggingface.config import MoeConfig
from grok.architectures.huggingface.families import (
    deepseek,
    glm4_moe,
    gpt_oss,
    granitemoe,
    llama4,
    minimax_m2,
    mixtral,
    olmoe,
    phimoe,
    qwen_moe,
)
from grok.architectures.huggingface.settings import Settings
from grok.checkpoints.model_files import CONFIG
from grok.checkpoints.safetensors import parse_json
from grok.checkpoints.safetensors_folder import SafetensorsFolder
from grok.checkpoints.tensor_spec import TensorSpec
from grok.checkpoints.token_embedding import TokenEmbedding, table_of
from grok.errors import CheckpointError, ConfigError, plain

MAX_CONFIG = 2**24  # bytes
READERS: Mapping[str, Callable[[Settings], MoeConfig]] = {
    "deepseek_v2": deepseek.read_v2,
    "deepseek_v3": deepseek.read_v3,
    "glm4_moe": glm4_moe.read,
    "gpt_oss": gpt_oss.read,
    "granitemoe": granitemoe.read,
    "kimi_k2": deepseek.read_v3,
    "llama4": llama4.read,
    "llama4_text": llama4.read,
    "minimax_m2": minimax_m2.read,
    "mixtral": mixtral.read,
    "olmoe": olmoe.read,
    "phimoe": phimoe.read,
    "qwen2_moe": qwen_moe.read_qwen2,
    "qwen3_moe": qwen_moe.read_qwen3,
}
"""What reads the config of a `model_type`."""


def is_one(folder: Path) -> bool:
    """Whether a folder's `config.json` names a model type, supported or not."""
    try:
        return "model_type" in _config_json(folder)
    except CheckpointError:
        return False


def open_checkpoint(folder: Path) -> SafetensorsFolder:
    """The checkpoint in a folder; no tensor is read.

    Raises:
        ConfigError: a family that is not computed here, or settings that make no sense.
        CheckpointError: an index that makes no sense.
    """
    config = read_config(folder)
    specs = list(all_specs(config))
    names = [name for spec in specs for name in spec.names]
    packed: list[str] = []
    if config.mxfp4:
        matrices = (tensors.FIRST, tensors.DOWN)
        packed = [name for spec in specs if spec.leaf in matrices for name in spec.names]
    return SafetensorsFolder(folder, config, names, block=config.fp8_block, packed=packed)


def open_embedding(checkpoint: SafetensorsFolder) -> TokenEmbedding:
    """The token embedding of a folder, tied to the head or not, ready to be read by rows.

    Raises:
        CheckpointError: missing, damaged, or of another shape or dtype than floats.
    """
    config: Any = checkpoint.config
    return table_of(
        checkpoint,
        tensors.outer_specs(config)[0],
        multiplier=config.multipliers.embedding,
        epsilon=config.norm_epsilon,
        centred=config.layer_norm,
    )


def read_config(folder: Path) -> MoeConfig:
    """The config in a folder.

    Raises:
        ConfigError: a family that is not computed here, or settings that make no sense.
    """
    settings = Settings(_config_json(folder), str(folder / CONFIG))
    kind = settings.text("model_type", "")
    if kind not in READERS:
        raise ConfigError(
            f"{settings.where}: model_type: found '{plain(kind, 60)}'; expected one of "
            f"{', '.join(READERS)}. Models of other types are not run here; their routers may be "
            "extracted with `python -m lens.extract`."
        )
    return READERS[kind](settings)


def all_specs(config: MoeConfig) -> list[TensorSpec]:
    """All parameters of a model."""
    layers = range(config.n_layers)
    inner = (spec for layer in layers for spec in tensors.layer_specs(config, layer))
    return [*tensors.outer_specs(config), *inner]


def _config_json(folder: Path) -> Mapping[str, object]:
    file = folder / CONFIG
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_CONFIG)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}. Complete the download.") from error
    return parse_json(text, str(file))
