"""A checkpoint folder of Grok-1's full shapes that takes a few MB of disk.

All 770 files are there, byte for byte of the released size, and every one has
the head and the tail that the format has. Routers and norms are real (random
values); of the large tensors the values are holes, which the file system
doesn't store and which read as zeros. What needs only routers, norms and sizes
can be tried on it; a trace cannot.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from grok.checkpoints.grok1 import EMBEDDING, expected_shape, is_matrix, tensor_paths
from grok.checkpoints.tensor_file import BFLOAT16, QuantizedWeight8bit, Tensor, _Pickler
from grok.config import GROK_1, GrokConfig

# Pickle writes bytes of this size or more outside its frames, so they can be a hole.
SMALLEST_HOLE = 64 * 1024


class _Hole:
    """Stands for `n_bytes` zeros."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes


class _Skipping:
    """A file in which writing a hole moves on without writing."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, data: bytes | _Hole) -> None:
        if isinstance(data, _Hole):
            self._stream.seek(data.n_bytes, os.SEEK_CUR)
        else:
            self._stream.write(data)


def _is_hole(value: Any) -> bool:
    broadcast = isinstance(value, np.ndarray) and not any(value.strides)
    return broadcast and value.nbytes >= SMALLEST_HOLE


class _SparsePickler(_Pickler):
    """The format's pickler; of an array that is one value broadcast it writes a hole."""

    dispatch = dict(_Pickler.dispatch)

    def reducer_override(self, value: Any) -> Any:
        if not _is_hole(value):
            return super().reducer_override(value)
        function, arguments, _ = super().reducer_override(np.zeros(1, value.dtype))
        return function, arguments, (1, value.shape, value.dtype, False, _Hole(value.nbytes))

    def save_hole(self, hole: _Hole) -> None:
        if hole.n_bytes > 0xFFFFFFFF:
            header = pickle.BINBYTES8 + struct.pack("<Q", hole.n_bytes)
        else:
            header = pickle.BINBYTES + struct.pack("<I", hole.n_bytes)
        self.framer.write_large_bytes(header, hole)
        self.memoize(hole)

    dispatch[_Hole] = save_hole


def zeros(dtype: Any, *shape: int) -> np.ndarray:
    """An array of zeros that takes no memory, read-only."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def write_sparse_tensor(file: Path, tensor: Tensor) -> None:
    """As `grok.checkpoints.tensor_file.write_tensor`, arrays made by `zeros` becoming holes."""
    with file.open("wb") as stream:
        pickler: Any = _SparsePickler(_Skipping(stream), protocol=4)
        pickler.dump_tensor(tensor)


def scale_groups(path: str) -> int:
    """Groups of rows that have scales of their own, in the release."""
    return 8 if path.endswith(("linear_1/w", "multi_head_attention/linear/w")) else 1


def large_tensor(config: GrokConfig, path: str) -> Tensor:
    """The embedding, float32, or a matrix, int8 with bfloat16 scales, all zeros."""
    shape = expected_shape(config, path)
    if path == EMBEDDING:
        return zeros(np.float32, *shape)
    scales = (*shape[:-2], scale_groups(path), shape[-1])
    return QuantizedWeight8bit(zeros(np.int8, *shape), zeros(BFLOAT16, *scales))


def write_sparse_layout(
    folder: Path, config: GrokConfig = GROK_1, *, n_layers: int | None = None, seed: int = 0
) -> list[Path]:
    """Writes `folder/ckpt-0` and, unless this is Grok-1 itself, `folder/config.json`.

    Args:
        folder: made; must not hold a checkpoint yet.
        config: the model's shape.
        n_layers: in place of the config's.
        seed: of the routers and norms.

    Returns:
        The files whose values are real: routers and norms.
    """
    if n_layers is not None:
        config = replace(config, n_layers=n_layers)
    ckpt = folder / "ckpt-0"
    ckpt.mkdir(parents=True)
    if config != GROK_1:
        (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    rng = np.random.default_rng(seed)
    real = []
    for i, path in enumerate(tensor_paths(config.n_layers)):
        file = ckpt / f"tensor{i:05d}_000"
        if path == EMBEDDING or is_matrix(path):
            write_sparse_tensor(file, large_tensor(config, path))
            continue
        values = rng.standard_normal(expected_shape(config, path), np.float32)
        write_sparse_tensor(file, 1 + values / 10 if values.ndim == 1 else values / 50)
        real.append(file)
    return real


def stored_bytes(files: Sequence[Path]) -> int:
    """Bytes of disk that the files take."""
    return sum(file.stat().st_blocks * 512 for file in files)
