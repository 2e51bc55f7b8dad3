"""The embedding by rows is the embedding, in bounded memory, and damage is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from grok.checkpoints.grok1 import EMBEDDING, Checkpoint, open_checkpoint
from grok.checkpoints.tensor_file import QuantizedWeight8bit, write_tensor
from grok.checkpoints.tensor_offsets import MAX_OVERHEAD
from grok.checkpoints.token_embedding import open_embedding
from grok.config import BUNDLED_MODEL
from grok.errors import CheckpointError

DATA = Path(__file__).resolve().parents[2] / "data"
MODELS = [DATA / "tiny12", DATA / "tiny3_bf16scales", DATA / "shard8", BUNDLED_MODEL]
SHAPE = (300, 64)


def checkpoint_of(folder: Path, shape: tuple[int, int] = SHAPE) -> Checkpoint:
    """A checkpoint that lacks everything but the place of its embedding."""
    values = json.loads((DATA / "tiny3" / "config.json").read_text())
    values["vocab_size"], values["model"]["emb_size"] = shape
    (folder / "ckpt-0").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "ckpt-0" / "tensor00001_000").touch()
    return open_checkpoint(folder)


def table(shape: tuple[int, ...] = SHAPE, dtype: object = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("rows", [1000, 37])
def test_blocks_are_the_embedding_that_reading_the_whole_file_gives(
    folder: Path, rows: int
) -> None:
    checkpoint = open_checkpoint(folder)
    whole = np.asarray(checkpoint.read(EMBEDDING))
    embedding = open_embedding(checkpoint)
    blocks = [block.copy() for block in embedding.blocks(rows)]
    assert all(block.dtype == np.float32 for block in blocks)
    assert max(map(len, blocks)) <= rows
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    for token in (0, 5, len(whole) - 1):
        np.testing.assert_array_equal(embedding.row(token), whole[token])
    assert (embedding.n_tokens, embedding.d_model) == whole.shape
    assert embedding.multiplier == checkpoint.config.embedding_multiplier


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_both_dtypes_and_both_orders_are_read(tmp_path: Path, dtype: object, order: str) -> None:
    checkpoint = checkpoint_of(tmp_path)
    written = np.asarray(table(dtype=dtype), order=order)  # type: ignore[call-overload]
    write_tensor(checkpoint.file(EMBEDDING), written)
    embedding = open_embedding(checkpoint)
    assert embedding.fortran == (order == "F")
    found = np.concatenate([block.copy() for block in embedding.blocks(41)])
    np.testing.assert_array_equal(found, written.astype(np.float32))
    np.testing.assert_array_equal(embedding.row(299), written[299].astype(np.float32))


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("shape", [(4, 4), (20, 64), SHAPE], ids=str)
def test_files_that_numpy_pickled_are_read_framed_or_not(
    tmp_path: Path, protocol: int, shape: tuple[int, int]
) -> None:
    checkpoint = checkpoint_of(tmp_path, shape)
    checkpoint.file(EMBEDDING).write_bytes(pickle.dumps(table(shape), protocol=protocol))
    embedding = open_embedding(checkpoint)
    np.testing.assert_array_equal(next(embedding.blocks(shape[0])), table(shape))


def test_values_are_neither_read_when_opened_nor_held_when_streamed(tmp_path: Path) -> None:
    shape = (16_000, 1024)
    checkpoint = checkpoint_of(tmp_path, shape)
    write_tensor(checkpoint.file(EMBEDDING), np.zeros(shape, np.float32))
    tracemalloc.start()
    embedding = open_embedding(checkpoint)
    opened = tracemalloc.get_traced_memory()[1]
    rows = sum(len(block) for block in embedding.blocks(250))
    streamed = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 16_000 and embedding.n_bytes == 65_536_000
    assert opened < 10 * MAX_OVERHEAD
    assert streamed < 250 * 1024 * 4 + 10 * MAX_OVERHEAD


def test_progress_counts_rows_and_can_stop_the_reading(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    write_tensor(checkpoint.file(EMBEDDING), table())
    told: list[tuple[int, int]] = []
    for _ in open_embedding(checkpoint).blocks(128, lambda *done: told.append(done)):
        pass
    assert told == [(128, 300), (256, 300), (300, 300)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(open_embedding(checkpoint).blocks(128, stop))


class Evil:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("executed",))


def test_foreign_globals_are_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = checkpoint_of(tmp_path)
    checkpoint.file(EMBEDDING).write_bytes(pickle.dumps(Evil(), protocol=4))
    with pytest.raises(CheckpointError, match=r"asks for (posix|nt)\.mkdir.*Nothing was executed"):
        open_embedding(checkpoint)
    assert not Path("executed").exists()


def test_a_file_that_is_not_there_is_named_with_what_still_works(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tensor00000_000: there is no such file.*routers"):
        open_embedding(checkpoint_of(tmp_path))


def damaged(whole: bytes, how: str) -> bytes:
    if how == "cut":
        return whole[: len(whole) // 2]
    if how == "cut at the end":
        return whole[:-10]
    if how == "more":
        return whole + b"more"
    if how == "empty":
        return b""
    return b"not a pickle at all, but long enough to be read as one" * 4000


@pytest.mark.parametrize(
    "how, text",
    [
        ("cut", "truncated: 76800 more bytes are due and"),
        ("cut at the end", "truncated"),
        ("more", "4 bytes are left after the tensor"),
        ("empty", "truncated: 1 more bytes are due and 0 are there"),
        ("other", "refused|not a tensor file"),
    ],
)
def test_damaged_files_are_refused_with_what_is_wrong(tmp_path: Path, how: str, text: str) -> None:
    checkpoint = checkpoint_of(tmp_path)
    file = checkpoint.file(EMBEDDING)
    write_tensor(file, table())
    file.write_bytes(damaged(file.read_bytes(), how))
    with pytest.raises(CheckpointError, match=text) as caught:
        open_embedding(checkpoint)
    assert str(file) in str(caught.value)


def test_another_shape_names_the_one_expected(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    write_tensor(checkpoint.file(EMBEDDING), table((64, 300)))
    with pytest.raises(CheckpointError, match=r"shape \[64, 300\]; expected \[300, 64\]"):
        open_embedding(checkpoint)


def test_int8_values_and_int8_weights_are_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    write_tensor(checkpoint.file(EMBEDDING), np.zeros(SHAPE, np.int8))
    with pytest.raises(CheckpointError, match="dtype int8; expected float32 or bfloat16"):
        open_embedding(checkpoint)
    weight = QuantizedWeight8bit(np.zeros(SHAPE, np.int8), np.ones((1, 64), np.float32))
    write_tensor(checkpoint.file(EMBEDDING), weight)
    with pytest.raises(CheckpointError, match="dtype int8; expected float32 or bfloat16"):
        open_embedding(checkpoint)


def test_a_shape_that_the_bytes_do_not_fill_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    file = checkpoint.file(EMBEDDING)
    write_tensor(file, table())
    whole = file.read_bytes()
    # 300 as a two-byte number of the pickle, made 301
    changed = whole.replace(b"M\x2c\x01", b"M\x2d\x01", 1)
    assert changed != whole
    file.write_bytes(changed)
    with pytest.raises(CheckpointError, match="needs 77056 bytes; the file holds 76800"):
        open_embedding(checkpoint)


def test_a_frame_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    file = checkpoint.file(EMBEDDING)
    with file.open("wb") as stream:
        stream.write(b"\x80\x04\x95" + struct.pack("<Q", 2**31))
        stream.truncate(2**31 + 11)  # sparse: takes no room
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="2147483648 bytes are due where"):
        open_embedding(checkpoint)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("token", [-1, 300])
def test_a_token_that_is_not_there_is_refused(tmp_path: Path, token: int) -> None:
    checkpoint = checkpoint_of(tmp_path)
    write_tensor(checkpoint.file(EMBEDDING), table())
    with pytest.raises(CheckpointError, match=f"no token {token}; expected 0 to 299"):
        open_embedding(checkpoint).row(token)


def test_a_row_that_is_no_number_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    values = table()
    values[7, 7] = np.nan
    write_tensor(checkpoint.file(EMBEDDING), values)
    embedding = open_embedding(checkpoint)
    assert np.isfinite(embedding.row(6)).all()
    with pytest.raises(CheckpointError, match="embedding of token 7 is not finite"):
        embedding.row(7)


def test_a_file_that_changed_since_it_was_opened_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    file = checkpoint.file(EMBEDDING)
    write_tensor(file, table())
    embedding = open_embedding(checkpoint)
    write_tensor(file, table() + 1)
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        embedding.row(0)
    embedding = open_embedding(checkpoint)
    blocks = embedding.blocks(100)
    next(blocks)
    os.utime(file, ns=(1, 1))
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        list(blocks)


def test_a_file_that_was_shortened_ends_in_an_error(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    file = checkpoint.file(EMBEDDING)
    write_tensor(file, table())
    blocks = open_embedding(checkpoint).blocks(10)
    next(blocks)
    os.truncate(file, 4000)
    with pytest.raises(CheckpointError, match="the file ends at row .*; expected 300 rows"):
        list(blocks)


def test_a_copy_has_another_identity_and_the_same_rows(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path / "a")
    write_tensor(checkpoint.file(EMBEDDING), table())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = open_embedding(checkpoint), open_embedding(open_checkpoint(tmp_path / "b"))
    assert first.identity != second.identity
    assert open_embedding(checkpoint).identity == first.identity
    np.testing.assert_array_equal(first.row(3), second.row(3))
    assert replace(first, tensor=second.tensor) != first


def test_reading_an_embedding_needs_no_jax() -> None:
    import subprocess

    code = "import sys, grok.checkpoints.token_embedding; assert 'jax' not in sys.modules"
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=300)
