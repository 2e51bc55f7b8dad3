"""The sparse layout has the release's sizes to the byte, and takes little disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fullsize.sparse_layout import (
    large_tensor,
    stored_bytes,
    write_sparse_layout,
    write_sparse_tensor,
    zeros,
)
from grok.checkpoints.grok1 import (
    EMBEDDING,
    layer_path,
    open_checkpoint,
    tensor_paths,
)
from grok.checkpoints.tensor_file import (
    BFLOAT16,
    QuantizedWeight8bit,
    read_tensor,
    write_tensor,
)
from grok.config import GROK_1

pytestmark = pytest.mark.benchmarks

# Published sizes of the twelve files of a layer, in file order.
LAYER_FILES = [1611137347, 1611399491, 1611137347, 6293814, 37847359, 37761334, 6293814]
LAYER_FILES += [24727] * 4 + [196770]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layout") / "grok-1"
    write_sparse_layout(folder)
    return folder


def test_every_file_has_the_published_size(layout):
    sizes = [file.stat().st_size for file in sorted((layout / "ckpt-0").iterdir())]
    assert sizes == [3221225637, 24727, *LAYER_FILES * 64]
    assert sum(sizes) == 318_239_886_140


def test_it_takes_a_few_megabytes_of_disk(layout):
    assert stored_bytes(list((layout / "ckpt-0").iterdir())) < 60e6


@pytest.mark.parametrize(
    ("leaf", "dtype", "scales"),
    [
        ("multi_head_attention/key/w", np.int8, (1, 1024)),
        ("multi_head_attention/linear/w", np.int8, (8, 6144)),
    ],
)
def test_the_head_and_tail_of_a_large_file_are_those_of_the_format(layout, leaf, dtype, scales):
    tensor = open_checkpoint(layout).read(layer_path(63, leaf))
    assert isinstance(tensor, QuantizedWeight8bit)
    assert tensor.weight.dtype == dtype and not tensor.weight.any()
    assert tensor.scales.dtype == BFLOAT16 and tensor.scales.shape == scales


@pytest.mark.parametrize("rows", [3, 300, 70_000])  # in one frame, of its own, both
def test_a_sparse_file_holds_the_bytes_that_writing_the_zeros_gives(tmp_path, rows):
    hole = QuantizedWeight8bit(zeros(np.int8, 2, rows, 5), zeros(BFLOAT16, 2, 1, 5))
    full = QuantizedWeight8bit(np.array(hole.weight), np.array(hole.scales))
    write_sparse_tensor(tmp_path / "sparse", hole)
    write_tensor(tmp_path / "full", full)
    assert (tmp_path / "sparse").read_bytes() == (tmp_path / "full").read_bytes()
    found = read_tensor(tmp_path / "sparse")
    assert isinstance(found, QuantizedWeight8bit) and found.weight.shape == (2, rows, 5)


def test_a_layout_of_another_shape_says_so_in_its_config(tmp_path):
    config = replace(GROK_1, vocab_size=512, d_model=64, n_layers=3, n_heads=4, n_kv_heads=2)
    write_sparse_layout(tmp_path / "small", config)
    checkpoint = open_checkpoint(tmp_path / "small")
    assert checkpoint.config == config and checkpoint.missing() == []
    for path in tensor_paths(3):
        assert checkpoint.read(path).shape
    assert large_tensor(config, EMBEDDING).shape == (512, 64)
