"""The checkpoint that the benchmark of the full size makes, at small sizes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fullsize import checkpoint as full_checkpoint
from benchmarks.fullsize.checkpoint import (
    checkpoint_bytes,
    few_layers,
    file_bytes,
    make_checkpoint,
)
from grok.checkpoints.grok1 import expected_shape, layer_path, open_checkpoint
from grok.checkpoints.tensor_file import QuantizedWeight8bit, dequantize, write_tensor
from grok.config import GROK_1, GrokConfig
from grok.errors import CheckpointError

pytestmark = pytest.mark.benchmarks

SMALL = replace(
    GROK_1, vocab_size=1024, d_model=256, n_layers=3, n_heads=4, n_kv_heads=2, d_head=64
)

# Published sizes of the released files.
RELEASED = {
    "language_model/in_out_embed/embeddings": 3_221_225_637,
    "language_model/rms_norm/scale": 24_727,
    layer_path(1, "moe/linear/w"): 1_611_137_347,
    layer_path(1, "moe/linear_1/w"): 1_611_399_491,
    layer_path(1, "moe/linear_v/w"): 1_611_137_347,
    layer_path(1, "multi_head_attention/key/w"): 6_293_814,
    layer_path(1, "multi_head_attention/linear/w"): 37_847_359,
    layer_path(1, "multi_head_attention/query/w"): 37_761_334,
    layer_path(1, "router/w"): 196_770,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "model"
    make_checkpoint(place, SMALL)
    return place


@pytest.mark.parametrize(("path", "size"), RELEASED.items())
def test_files_of_the_full_size_take_the_published_bytes(path: str, size: int) -> None:
    assert file_bytes(few_layers(2), path) == size


def test_a_file_written_in_pieces_has_the_bytes_of_one_written_whole(
    folder: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(folder)
    for path in checkpoint.paths:
        write_tensor(tmp_path / "whole", checkpoint.read(path))
        assert checkpoint.file(path).read_bytes() == (tmp_path / "whole").read_bytes(), path


def test_the_sizes_known_beforehand_are_those_on_disk(folder: Path) -> None:
    files = list((folder / "ckpt-0").iterdir())
    assert sum(file.stat().st_size for file in files) == checkpoint_bytes(SMALL)


def test_pieces_of_any_size_give_matrices_that_keep_rows_at_order_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_checkpoint, "PIECE", 100_000)
    checkpoint, _ = make_checkpoint(tmp_path / "model", SMALL)
    rng = np.random.default_rng(0)
    for path in checkpoint.paths:
        tensor = checkpoint.read(path)
        if not isinstance(tensor, QuantizedWeight8bit):
            continue
        weight = dequantize(tensor).reshape(-1, *tensor.shape[-2:])
        rows = rng.standard_normal((64, tensor.shape[-2])).astype(np.float32)
        out = rows @ weight  # [E, 64, N]
        assert 0.8 < out.std() < 1.2, path
        column = out.std(axis=(0, 1))
        assert column.min() > 0.2, path
        assert len({block.tobytes() for block in weight}) == len(weight), path  # no expert twice


def test_layers_differ_and_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = open_checkpoint(folder)
    again, made = make_checkpoint(tmp_path / "again", SMALL)
    other, _ = make_checkpoint(tmp_path / "other", SMALL, seed=1)
    assert made
    contents = {first.file(path).read_bytes() for path in first.paths}
    assert len(contents) == len(first.paths)
    for path in first.paths:
        assert again.file(path).read_bytes() == first.file(path).read_bytes()
        assert other.file(path).read_bytes() != first.file(path).read_bytes()


def test_routers_spread_the_tokens_over_the_experts(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    rows = np.random.default_rng(0).standard_normal((512, SMALL.d_model))
    for layer in range(SMALL.n_layers):
        logits = rows @ np.asarray(checkpoint.read(layer_path(layer, "router/w")), np.float64)
        load = np.bincount(logits.argmax(axis=1), minlength=8) / 512
        assert 0.6 < logits.std() < 1.6
        assert load.min() > 0.03


def test_a_checkpoint_of_before_is_found_and_another_one_is_not_touched(
    folder: Path, tmp_path: Path
) -> None:
    _, made = make_checkpoint(folder, SMALL)
    assert not made
    for config, seed in ((replace(SMALL, n_layers=2), 0), (SMALL, 5)):
        with pytest.raises(CheckpointError, match="holds something else"):
            make_checkpoint(folder, config, seed=seed)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "note").write_text("keep")
    with pytest.raises(CheckpointError, match="Name another folder"):
        make_checkpoint(mine, SMALL)
    assert [file.name for file in mine.iterdir()] == ["note"]


def test_a_disk_without_room_is_refused_with_the_room_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"takes 13\.1 GB .* has 5\.0 GB"):
        make_checkpoint(tmp_path / "model", few_layers(2))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(full_checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        make_checkpoint(tmp_path / "model", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_shapes_are_those_of_grok_1_but_for_the_layers() -> None:
    config: GrokConfig = few_layers(2)
    for leaf in ("moe/linear_1/w", "multi_head_attention/key/w", "router/w"):
        path = layer_path(1, leaf)
        assert expected_shape(config, path) == expected_shape(GROK_1, path)
    assert config.n_layers == 2
