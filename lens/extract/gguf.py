"""The routers of a model in GGUF files, where they are float32 whatever the experts are.

Files are read with ggml-org's own `gguf` package. Of the tensors only the routers, their biases
and the norms before them are read; the metadata say how experts are chosen.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from grok.errors import plain
from lens.errors import LensError
from lens.routers.router_set import MAX_EXPERTS, MAX_LAYERS, RouterSet

MAX_HEADER = 2**28  # bytes of names and vocabulary before the tensors
ROUTER, BIAS, CORRECTION = "ffn_gate_inp.weight", "ffn_gate_inp.bias", "exp_probs_b.bias"
# What llama.cpp calls the norm before the router; some families name it after attention.
NORMS = ("ffn_norm", "post_attention_norm")
GATING: dict[int, Literal["softmax", "sigmoid"]] = {1: "softmax", 2: "sigmoid", 3: "softmax"}
SIGMOID_BY_DEFAULT = ("llama4", "deepseek2", "glm4moe", "minimax-m2")
FLOATS = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<total>\d{5})\.gguf")
_LAYER = re.compile(r"blk\.(?P<layer>\d{1,4})\.(?P<rest>.+)", re.ASCII)
ADVICE = "Download or copy the file again."


class _Reader(gguf.GGUFReader):
    """The package's reader, for files from strangers.

    No value is taken from beyond the file's end, where the package would go on with empty ones, and
    the header has a bound.
    """

    def _get(self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        end = int(offset) + int(np.dtype(dtype).itemsize) * int(count)
        if end > len(self.data) or int(count) < 0:
            raise ValueError(f"it ends at byte {len(self.data)}; {end} were announced")
        if not hasattr(self, "data_offset") and end > MAX_HEADER:
            raise ValueError(f"its header has more than {MAX_HEADER:,} bytes")
        return super()._get(offset, dtype, int(count), override_order)


@dataclass
class _Files:
    """The tensors of a model by name, and its metadata."""

    tensors: dict[str, tuple[Path, Any]]
    fields: dict[str, Any]
    n_bytes: int = 0

    def whole(self, key: str) -> int | None:
        """A whole number among the metadata, by the part of its key after the architecture."""
        found = self.fields.get(f"{self.architecture}.{key}")
        if isinstance(found, bool) or not isinstance(found, int | np.integer):
            return None
        return int(found)

    @property
    def architecture(self) -> str:
        return plain(str(self.fields.get("general.architecture", "")), 60)

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor of this shape as float32.

        Raises:
            LensError: of another shape, quantized, or not finite.
        """
        path, tensor = self.tensors[name]
        where = f"{path}: tensor '{plain(name, 80)}'"
        if tensor.tensor_type not in FLOATS:
            raise LensError(
                f"{where}: stored as {tensor.tensor_type.name}; expected F32 or F16, as routers "
                "are. Use a file whose routers are not quantized."
            )
        values = np.asarray(tensor.data)
        if values.shape != shape:
            raise LensError(
                f"{where}: the shape is {list(values.shape)}; expected {list(shape)}. {ADVICE}"
            )
        self.n_bytes += values.nbytes
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise LensError(f"{where}: values are not finite. {ADVICE}")
        return values


def extract_gguf(
    path: str | os.PathLike[str],
    *,
    norms: bool = True,
    top_k: int | None = None,
    score: str | None = None,
) -> tuple[RouterSet, int]:
    """The routers of a model in a GGUF file, by the number of its layers.

    Args:
        path: the file, or one of several parts that lie side by side.
        norms: whether to read the scales of the norms before the routers too.
        top_k: experts a token, instead of what the file says.
        score: "softmax" or "sigmoid", likewise.

    Returns:
        The router set, and the bytes of tensors that were read.

    Raises:
        LensError: files are missing or damaged, hold no routers, or contradict themselves.
    """
    files = _opened(Path(path))
    layers = sorted(
        int(match["layer"])
        for name in files.tensors
        if (match := _LAYER.fullmatch(name)) and match["rest"] == ROUTER
    )
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise LensError(
            f"{path}: {len(layers)} layers have a router (blk.N.{ROUTER}); expected 1 to "
            f"{MAX_LAYERS}. This is no Mixture-of-Experts model."
        )
    first = files.tensors[f"blk.{layers[0]}.{ROUTER}"][1].data
    if first.ndim != 2 or not 2 <= first.shape[0] <= MAX_EXPERTS:
        raise LensError(
            f"{path}: the first router has shape {list(first.shape)}; expected [experts, width], "
            f"2 to {MAX_EXPERTS} experts. {ADVICE}"
        )
    said, n_experts = files.whole("expert_count"), int(first.shape[0])
    if said not in (None, n_experts):
        raise LensError(
            f"{path}: expert_count is {said} and routers have {n_experts} rows; expected the same "
            f"number. {ADVICE}"
        )
    chosen = top_k if top_k is not None else files.whole("expert_used_count")
    if chosen is None:
        raise LensError(f"{path}: nothing says how many experts a token uses. Give --top-k.")
    kind, notes = _score(files, score)
    routers = np.stack([files.read(f"blk.{i}.{ROUTER}", first.shape).T for i in layers])
    return RouterSet(
        routers=routers,
        norm_scales=_norms(files, layers, first.shape[1], notes) if norms else None,
        layer_ids=np.array(layers, np.int32),
        top_k=chosen,
        score=kind,
        biases=_biases(files, layers, n_experts, kind, notes),
        source=f"{_name(files, Path(path))} ({'; '.join(['gguf', *notes])})",
    ), files.n_bytes


def _opened(path: Path) -> _Files:
    """The tensors and metadata of a file, or of all parts of it."""
    match = _SHARD.fullmatch(path.name)
    paths = [path]
    if match is not None:
        total = int(match["total"])
        paths = [
            path.with_name(f"{match['stem']}-{part:05}-of-{total:05}.gguf")
            for part in range(1, min(total, 1000) + 1)
        ]
    found = _Files({}, {})
    for one in paths:
        if not one.is_file():
            raise LensError(f"{one}: there is no such file; expected it beside {path.name}.")
        reader = _reader(one)
        for tensor in reader.tensors:
            found.tensors[tensor.name] = (one, tensor)
        for key, field in reader.fields.items():
            if key.startswith(("general.", "GGUF.")) or key.count(".") == 1:
                found.fields.setdefault(key, _content(field))
    return found


def _reader(path: Path) -> _Reader:
    try:
        return _Reader(path)
    except (OSError, ValueError, KeyError, IndexError, RecursionError, OverflowError) as error:
        raise LensError(
            f"{path}: not a readable GGUF file ({plain(str(error), 100)}). {ADVICE}"
        ) from error


def _content(field: Any) -> Any:
    try:
        return field.contents() if len(field.data) == 1 else None
    except (ValueError, IndexError, UnicodeDecodeError):
        return None


def _score(files: _Files, given: str | None) -> tuple[Any, list[str]]:
    """What turns logits into gates, and notes where nothing says it."""
    if given is not None:
        return given, []
    said = files.whole("expert_gating_func")
    if said in GATING:
        return GATING[said], []
    kind = "sigmoid" if files.architecture in SIGMOID_BY_DEFAULT else "softmax"
    corrected = any(name.endswith(CORRECTION) for name in files.tensors)
    return ("sigmoid" if corrected else kind), ["score assumed"]


def _of_all(files: _Files, layers: list[int], ending: str) -> list[str] | None:
    """The tensors with an ending of all these layers; None where none has one."""
    names = [f"blk.{layer}.{ending}" for layer in layers]
    there = [name for name in names if name in files.tensors]
    if there and len(there) < len(names):
        missing = next(name for name in names if name not in files.tensors)
        raise LensError(f"There is no tensor {missing}, and other layers have theirs. {ADVICE}")
    return there or None


def _norms(files: _Files, layers: list[int], d_model: int, notes: list[str]) -> np.ndarray | None:
    for ending in NORMS:
        names = _of_all(files, layers, f"{ending}.weight")
        if names is not None:
            return np.stack([files.read(name, (d_model,)) for name in names])
    notes.append("norm before the routers not found")
    return None


def _biases(
    files: _Files, layers: list[int], n_experts: int, score: str, notes: list[str]
) -> np.ndarray | None:
    names = _of_all(files, layers, CORRECTION if score == "sigmoid" else BIAS)
    if score == "softmax" and _of_all(files, layers, CORRECTION) is not None:
        notes.append("biases that are added to softmax gates for the choice left out")
    return None if names is None else np.stack([files.read(n, (n_experts,)) for n in names])


def _name(files: _Files, path: Path) -> str:
    name = files.fields.get("general.name")
    return plain(str(name), 80) if isinstance(name, str) and name else path.stem
