"""A checkpoint folder: which file holds which parameter, read one at a time, and written.

File `tensor{i:05d}_000` is the i-th parameter when all are sorted as strings,
so layers come in the order 0, 1, 10, 11 ... 2, 20 ...; every layer has the same
shapes, and reading them in any other order would permute layers in silence.
This module needs numpy alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from grok.checkpoints.tensor_file import (
    BFLOAT16,
    QuantizedWeight8bit,
    Tensor,
    dequantize,
    read_tensor,
    write_tensor,
)
from grok.checkpoints.tensor_offsets import TensorLocation, locate_tensor
from grok.checkpoints.tensor_spec import TensorSpec
from grok.config import GROK_1, GrokConfig, read_config
from grok.errors import CheckpointError, GrokError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "QuantizedWeight8bit",
    "Tensor",
    "dequantize",
    "expected_shape",
    "is_matrix",
    "moe_norm_path",
    "open_checkpoint",
    "router_path",
    "tensor_paths",
    "write_checkpoint",
]

EMBEDDING = "language_model/in_out_embed/embeddings"
FINAL_NORM = "language_model/rms_norm/scale"
_FILE = re.compile(r"tensor(\d{5,})_(\d{3})")
# Leaves of an expert: GELU branch, linear branch, down projection.
ACTIVATED, LINEAR, DOWN = "moe/linear/w", "moe/linear_v/w", "moe/linear_1/w"
ROUTER, ROUTER_NORM = "router/w", "rms_norm_2/scale"
POST_NORMS = ("rms_norm_1/scale", "rms_norm_3/scale")  # after attention and after the experts
_GROUPS = 8  # rows of one column that share a scale, where the release has several
_MATRICES = {  # path within a layer -> (has experts, rows, columns, groups of scales)
    ACTIVATED: (True, "d_model", "d_ff", 1),
    DOWN: (True, "d_ff", "d_model", _GROUPS),
    LINEAR: (True, "d_model", "d_ff", 1),
    "multi_head_attention/key/w": (False, "d_model", "d_kv", 1),
    "multi_head_attention/linear/w": (False, "d_q", "d_model", _GROUPS),
    "multi_head_attention/query/w": (False, "d_model", "d_q", 1),
    "multi_head_attention/value/w": (False, "d_model", "d_kv", 1),
}
_NORMS = ("rms_norm/scale", ROUTER_NORM, *POST_NORMS)
LEAVES = tuple(sorted([*_MATRICES, *_NORMS, ROUTER]))
"""Paths of a layer's parameters within it, in file order."""


def layer_path(layer: int, leaf: str) -> str:
    """Path of one parameter of decoder layer `layer`."""
    return f"transformer/decoder_layer_{layer}/{leaf}"


def router_path(layer: int) -> str:
    """Path of the router of `layer`: float32 `[d_model, n_experts]`."""
    return layer_path(layer, ROUTER)


def moe_norm_path(layer: int) -> str:
    """Path of the scale of the norm that feeds the router of `layer`: `[d_model]`."""
    return layer_path(layer, ROUTER_NORM)


def tensor_paths(n_layers: int) -> list[str]:
    """All parameter paths in file order."""
    paths = [layer_path(layer, leaf) for layer in range(n_layers) for leaf in LEAVES]
    return sorted([EMBEDDING, FINAL_NORM, *paths])


def _leaf(path: str) -> str:
    return path.split("/", 2)[2] if path.startswith("transformer/") else path


def is_matrix(path: str) -> bool:
    """Whether the release quantizes the parameter at `path`."""
    return _leaf(path) in _MATRICES


def expected_shape(config: GrokConfig, path: str) -> tuple[int, ...]:
    """Shape of the parameter at `path` (of the int8 values when it is quantized)."""
    leaf = _leaf(path)
    if path == EMBEDDING:
        return config.vocab_size, config.d_model
    if leaf in _MATRICES:
        sizes = {
            "d_model": config.d_model,
            "d_ff": config.d_ff,
            "d_q": config.n_heads * config.d_head,
            "d_kv": config.n_kv_heads * config.d_head,
        }
        experts, rows, columns, _ = _MATRICES[leaf]
        return (config.n_experts,) * experts + (sizes[rows], sizes[columns])
    if leaf == ROUTER:
        return config.d_model, config.n_experts
    return (config.d_model,)


def layer_specs(config: GrokConfig, layer: int) -> tuple[TensorSpec, ...]:
    """The parameters of a decoder layer, in file order."""
    return tuple(spec_at(config, layer_path(layer, leaf)) for leaf in LEAVES)


def outer_specs(config: GrokConfig) -> tuple[TensorSpec, ...]:
    """The embedding, which is the head too, and the final norm."""
    return tuple(spec_at(config, path) for path in (EMBEDDING, FINAL_NORM))


def spec_at(config: GrokConfig, path: str) -> TensorSpec:
    """The parameter at `path`."""
    leaf, shape = _leaf(path), expected_shape(config, path)
    if leaf == EMBEDDING:
        return TensorSpec(leaf, shape, (path,), split=(0, config.vocab_size))
    if leaf not in _MATRICES:
        return TensorSpec(leaf, shape, (path,))
    experts, _, _, groups = _MATRICES[leaf]
    attention = {"query": (1, config.n_heads), "linear": (0, config.n_heads)}
    split = (
        (0, config.n_experts)
        if experts
        else attention.get(leaf.split("/")[1], (1, config.n_kv_heads))
    )
    return TensorSpec(
        leaf,
        shape,
        (path,),
        per_expert=experts,
        quantizable=True,
        scale_groups=groups if shape[-2] % groups == 0 else 1,
        item_bytes=1,
        split=split,
    )


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; tensors are read when asked for.

    Attributes:
        folder: folder that holds `ckpt-0` and, where there are any, `config.json`
            and `tokenizer.model`.
        tensor_folder: folder of the tensor files.
        config: the model's shape.
    """

    folder: Path
    tensor_folder: Path
    config: GrokConfig

    @cached_property
    def paths(self) -> list[str]:
        """Parameter paths in file order."""
        return tensor_paths(self.config.n_layers)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {path: i for i, path in enumerate(self.paths)}

    @property
    def tokenizer_file(self) -> Path | None:
        """`tokenizer.model` beside `ckpt-0`, where there is one."""
        file = self.folder / "tokenizer.model"
        return file if file.is_file() else None

    def file(self, path: str) -> Path:
        """File of the parameter at `path`.

        Raises:
            CheckpointError: this model has no such parameter.
        """
        if path not in self._index:
            raise CheckpointError(
                f"{path} is no parameter of a model with {self.config.n_layers} layers."
            )
        return self.tensor_folder / f"tensor{self._index[path]:05d}_000"

    def missing(self) -> list[str]:
        """Paths whose file is not there."""
        return [path for path in self.paths if not self.file(path).is_file()]

    def check_complete(self) -> None:
        """Refuses a checkpoint of which files are missing.

        Raises:
            GrokError: how many, the first, and what to do.
        """
        missing = self.missing()
        if missing:
            raise GrokError(
                f"{self.tensor_folder}: {len(missing)} of {len(self.paths)} tensor files are "
                f"missing, the first is {self.file(missing[0]).name} ({missing[0]}). Complete "
                "the download. (The routers alone can be studied with python -m lens.extract.)"
            )

    def locate(self, path: str) -> TensorLocation:
        """Where the bytes of the parameter at `path` lie; none of its values is read.

        Raises:
            CheckpointError: the file is missing, truncated, or holds anything foreign.
        """
        file = self.file(path)
        try:
            return locate_tensor(file)
        except FileNotFoundError:
            raise CheckpointError(
                f"{file}: there is no such file. Complete the download or copy of the checkpoint."
            ) from None

    def read(self, path: str) -> Tensor:
        """The parameter at `path`, checked against the config; int8 stays int8.

        Raises:
            CheckpointError: the file is missing, damaged, of another shape or dtype,
                holds non-finite values, or names anything foreign to the format.
        """
        shape = expected_shape(self.config, path)
        values = int(np.prod(shape, dtype=np.int64))
        file = self.file(path)
        tensor = read_tensor(file, max_bytes=values * 4 + 2**16)
        where = f"{file} ({path})"
        if tensor.shape != shape:
            raise CheckpointError(
                f"{where}: shape {list(tensor.shape)}; expected {list(shape)}. "
                "Check that config.json belongs to this checkpoint."
            )
        floats = tensor.scales if isinstance(tensor, QuantizedWeight8bit) else tensor
        if isinstance(tensor, QuantizedWeight8bit):
            if not is_matrix(path):
                raise CheckpointError(f"{where}: int8 weight; expected a plain float array.")
        elif tensor.dtype not in (np.float32, BFLOAT16):
            raise CheckpointError(f"{where}: dtype {tensor.dtype}; expected float32 or bfloat16.")
        bad = _count_non_finite(floats)
        if bad:
            raise CheckpointError(
                f"{where}: {bad} values are not finite. The file is damaged; get it again."
            )
        return tensor


def _count_non_finite(values: np.ndarray) -> int:
    flat = values.reshape(-1, order="A")
    step = 1 << 22
    return sum(
        int(np.count_nonzero(~np.isfinite(flat[i : i + step]))) for i in range(0, flat.size, step)
    )


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens the folder that holds `ckpt-0`, or `ckpt-0` itself.

    A `config.json` beside `ckpt-0` gives the shape; without one it is Grok-1.
    Files are only listed here, so a folder with just the router files will do
    for extraction.

    Raises:
        CheckpointError: no such folder, no tensor files, or files of another number of layers.
        ConfigError: an unusable `config.json`.
    """
    given = Path(path)
    if (given / "ckpt-0").is_dir():
        folder, tensor_folder = given, given / "ckpt-0"
    elif given.is_dir():
        folder, tensor_folder = given.resolve().parent, given
    else:
        raise CheckpointError(
            f"{given}: there is no such folder. "
            "Give the folder that holds ckpt-0, or ckpt-0 itself."
        )
    indices = [int(m[1]) for name in os.listdir(tensor_folder) if (m := _FILE.fullmatch(name))]
    if not indices:
        raise CheckpointError(
            f"{given}: holds no tensor files (tensor00000_000 and so on). "
            "Give the folder that holds ckpt-0, or ckpt-0 itself."
        )
    config_file = folder / "config.json"
    config = read_config(config_file) if config_file.is_file() else GROK_1
    n_files = len(tensor_paths(config.n_layers))
    if max(indices) >= n_files:
        raise CheckpointError(
            f"{tensor_folder}: holds tensor{max(indices):05d}_000, but a model of "
            f"{config.n_layers} layers has {n_files} files. Check that "
            + (
                f"{config_file} belongs to this checkpoint."
                if config_file.is_file()
                else "a config.json is beside ckpt-0, unless this is Grok-1 itself."
            )
        )
    return Checkpoint(folder, tensor_folder, config)


def write_checkpoint(
    folder: str | os.PathLike[str],
    config: GrokConfig,
    tensors: Mapping[str, Tensor],
    *,
    extra_files: Mapping[str, Path] | None = None,
) -> Checkpoint:
    """Writes `folder/ckpt-0` and `folder/config.json`; the folder appears whole or not at all.

    Args:
        folder: must not exist, or be empty.
        config: shape of the model.
        tensors: every parameter by its path.
        extra_files: further files to copy beside `ckpt-0`, by name (a tokenizer, say).

    Raises:
        CheckpointError: a parameter is missing, unknown or of the wrong shape, or the
            folder is in use or cannot be written.
    """
    folder = Path(folder)
    paths = tensor_paths(config.n_layers)
    missing, unknown = set(paths) - set(tensors), set(tensors) - set(paths)
    if missing or unknown:
        raise CheckpointError(
            f"{folder}: nothing written; missing parameters {sorted(missing)[:3]}, "
            f"unknown parameters {sorted(unknown)[:3]}."
        )
    for path in paths:
        if tensors[path].shape != expected_shape(config, path):
            raise CheckpointError(
                f"{folder}: nothing written; {path} has shape {list(tensors[path].shape)}, "
                f"expected {list(expected_shape(config, path))}."
            )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: exists and is not an empty folder; nothing written.")
    building = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        (building / "ckpt-0").mkdir()
        for i, path in enumerate(paths):
            write_tensor(building / "ckpt-0" / f"tensor{i:05d}_000", tensors[path])
        text = json.dumps(config.to_dict(), indent=1) + "\n"
        (building / "config.json").write_text(text, encoding="utf-8")
        for name, source in (extra_files or {}).items():
            shutil.copyfile(source, building / name)
        os.chmod(building, 0o755)
        os.replace(building, folder)
    except BaseException as error:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointError(
                f"{folder}: the checkpoint cannot be written ({error.strerror or error}); nothing "
                "of it was left. Free space or choose another folder."
            ) from error
        raise
    return open_checkpoint(folder)
