"""A checkpoint of Grok-1's full widths and few layers, written in pieces.

Values are random but not degenerate: int8 values follow a normal distribution of
standard deviation 40, every one drawn for itself, and the scales bring each matrix to
1 / sqrt(rows), so that rows of order 1 come out of order 1. A layer takes 4.9 GB on
disk; nothing larger than a piece of it is held in memory.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from grok.checkpoints import tensor_file
from grok.checkpoints.grok1 import (
    EMBEDDING,
    Checkpoint,
    expected_shape,
    is_matrix,
    tensor_paths,
)
from grok.config import GROK_1, GrokConfig, read_config
from grok.errors import CheckpointError
from grok.files import write_whole

PIECE = 64 * 2**20  # bytes of values drawn and written at once
SPREAD = 40.0  # standard deviation of the int8 values, before they are rounded
GROUPED = ("moe/linear_1/w", "multi_head_attention/linear/w")
GROUPS = 8  # of rows with their own scales in GROUPED; one group elsewhere
SPARE = 10**9  # bytes that stay free on the disk
MARK = "made-by-benchmark.json"
SMALL = 64 * 1024  # arrays below it stand inside a frame of the pickle

_QUANTILES = statistics.NormalDist().inv_cdf
_INT8_OF_BYTE = np.array(
    [round(SPREAD * _QUANTILES((byte + 0.5) / 256)) for byte in range(256)], np.int8
)


@dataclass(frozen=True, eq=False)
class InPieces:
    """An array that is written piece by piece and never held whole.

    Attributes:
        shape: of the array, in C order.
        dtype: int8 or float32.
        pieces: its bytes, in order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Callable[[], Iterator[bytes | memoryview]]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class _Payload:
    """The bytes of an array on their way through the pickler."""

    source: InPieces


class _Stream:
    """An open file that takes a payload piece by piece; without one it only counts."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self.file = file
        self.written = 0

    def write(self, part: Any) -> None:
        if not isinstance(part, _Payload):
            self._write(part)
        elif self.file is None:
            self.written += part.source.nbytes
        else:
            before = self.written
            for piece in part.source.pieces():
                self._write(piece)
            if self.written - before != part.source.nbytes:
                raise ValueError(f"pieces of an array hold {self.written - before} bytes")

    def _write(self, part: Any) -> None:
        self.written += memoryview(part).nbytes
        if self.file is not None:
            self.file.write(part)


class _Pickler(tensor_file._Pickler):
    """The writer of tensor files, which also takes arrays in pieces."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, InPieces):
            return super().reducer_override(value)
        make, arguments, state = super().reducer_override(np.empty(0, value.dtype))
        return make, arguments, (state[0], value.shape, value.dtype, False, _Payload(value))

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(value, _Payload):
            super().save(value, save_persistent_id)
            return
        length = value.source.nbytes.to_bytes(4, "little")
        self._write_large_bytes(b"B" + length, value)
        self.memoize(value)


def _tensor(config: GrokConfig, path: str, seed: int) -> Any:
    """The parameter at `path`: an array, `InPieces`, or an int8 weight of either."""
    shape = expected_shape(config, path)
    index = tensor_paths(config.n_layers).index(path)
    rng = np.random.Generator(np.random.SFC64([seed, index]))
    if path == EMBEDDING:
        # After the multiplier the residual stream starts at order 1.
        return _floats(shape, 1 / config.embedding_multiplier, [seed, index])
    if not is_matrix(path):
        values = rng.standard_normal(shape, np.float32)
        return values / np.float32(shape[0] ** 0.5) if len(shape) == 2 else 1 + values / 10
    *lead, rows, columns = shape
    groups = GROUPS if path.endswith(GROUPED) else 1
    scales = (1 + rng.standard_normal((*lead, groups, columns), np.float32) / 10) / (
        SPREAD * rows**0.5
    )
    scales = scales.astype(ml_dtypes.bfloat16)
    return tensor_file.QuantizedWeight8bit(_integers(shape, [seed, index, 1]), scales)


def _integers(shape: tuple[int, ...], seed: list[int]) -> Any:
    table = _INT8_OF_BYTE.tobytes()
    n_bytes = int(np.prod(shape, dtype=np.int64))

    def pieces() -> Iterator[bytes]:
        rng = np.random.Generator(np.random.SFC64(seed))
        for start in range(0, n_bytes, PIECE):
            yield rng.bytes(min(PIECE, n_bytes - start)).translate(table)

    return _held_if_small(InPieces(shape, np.dtype(np.int8), pieces))


def _floats(shape: tuple[int, ...], spread: float, seed: list[int]) -> Any:
    count = int(np.prod(shape, dtype=np.int64))

    def pieces() -> Iterator[memoryview]:
        rng = np.random.Generator(np.random.SFC64(seed))
        for start in range(0, count, PIECE // 4):
            values = rng.standard_normal(min(PIECE // 4, count - start), np.float32)
            values *= np.float32(spread)
            yield values.data

    return _held_if_small(InPieces(shape, np.dtype("<f4"), pieces))


def _held_if_small(array: InPieces) -> Any:
    if array.nbytes >= SMALL:
        return array
    return np.frombuffer(b"".join(array.pieces()), array.dtype).reshape(array.shape)


def _write(stream: _Stream, tensor: Any) -> None:
    _Pickler(stream, protocol=4).dump_tensor(tensor)


def file_bytes(config: GrokConfig, path: str) -> int:
    """Bytes of the file of one parameter, the pickle around the values included."""
    counted = _Stream(None)
    _write(counted, _tensor(config, path, 0))
    return counted.written


def checkpoint_bytes(config: GrokConfig) -> int:
    """Bytes of all tensor files together."""
    return sum(file_bytes(config, path) for path in tensor_paths(config.n_layers))


def few_layers(n_layers: int) -> GrokConfig:
    """Grok-1 with another number of layers."""
    return replace(GROK_1, n_layers=n_layers)


def make_checkpoint(
    folder: Path,
    config: GrokConfig,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Checkpoint, bool]:
    """Writes the checkpoint to `folder`, whole or not at all, or finds it there from before.

    Args:
        folder: an older checkpoint of the same shape and seed made here is used as it is.
        config: its shape.
        seed: of all values; the same seed gives the same bytes.
        progress: called with (bytes written, bytes in all) after each file.

    Returns:
        The checkpoint, and whether it was made now.

    Raises:
        CheckpointError: the folder holds something else, or the disk has too little room.
    """
    recipe = {"n_layers": config.n_layers, "d_model": config.d_model, "seed": seed}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not _same(folder, config, recipe):
            raise CheckpointError(
                f"{folder}: holds something else than this benchmark's checkpoint of "
                f"{config.n_layers} layers. Name another folder, or remove it."
            )
        return Checkpoint(folder, folder / "ckpt-0", config), False
    needed = checkpoint_bytes(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < needed + SPARE:
        raise CheckpointError(
            f"{folder}: the checkpoint takes {needed / 1e9:.1f} GB and {SPARE / 1e9:.0f} GB must "
            f"stay free; the disk has {free / 1e9:.1f} GB. Name a folder on another disk, or "
            "ask for fewer layers."
        )
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        (building / "ckpt-0").mkdir()
        done = 0
        for i, path in enumerate(tensor_paths(config.n_layers)):
            file = building / "ckpt-0" / f"tensor{i:05d}_000"
            tensor = _tensor(config, path, seed)
            write_whole(file, partial(_to_disk, tensor=tensor))
            done += file.stat().st_size
            if progress is not None:
                progress(done, needed)
        (building / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
        (building / MARK).write_text(json.dumps(recipe) + "\n")
        os.chmod(building, 0o755)
        os.replace(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Checkpoint(folder, folder / "ckpt-0", config), True


def _to_disk(stream: IO[bytes], tensor: Any) -> None:
    """Writes, and waits until the disk has it: what is measured later must not wait for it."""
    _write(_Stream(stream), tensor)
    stream.flush()
    os.fsync(stream.fileno())


def _same(folder: Path, config: GrokConfig, recipe: dict[str, int]) -> bool:
    try:
        found = json.loads((folder / MARK).read_text())
        return found == recipe and read_config(folder / "config.json") == config
    except (OSError, ValueError):
        return False
