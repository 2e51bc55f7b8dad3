"""The sparse layout has the release's sizes to the byte; extraction reads none of its giants."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sparse_layout import (
    large_tensor,
    stored_bytes,
    write_sparse_layout,
    write_sparse_tensor,
    zeros,
)
from grok.checkpoints.grok1 import (
    EMBEDDING,
    layer_path,
    moe_norm_path,
    open_checkpoint,
    router_path,
    tensor_paths,
)
from grok.checkpoints.tensor_file import (
    BFLOAT16,
    QuantizedWeight8bit,
    read_tensor,
    write_tensor,
)
from grok.config import GROK_1
from lens.routers.router_set import load_routers

ROOT = Path(__file__).resolve().parents[2]
ORDER = sorted(range(64), key=str)
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


def test_it_opens_as_grok_1_and_each_layer_has_its_own_router(layout):
    checkpoint = open_checkpoint(layout)
    assert checkpoint.config == GROK_1 and checkpoint.missing() == []
    assert checkpoint.file(router_path(2)).name == f"tensor{13 + 12 * ORDER.index(2):05d}_000"
    routers = [checkpoint.read(router_path(layer)) for layer in range(64)]
    assert all(router.shape == (6144, 8) for router in routers)
    assert len({np.asarray(router).tobytes() for router in routers}) == 64


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


EXTRACT = """
import sys
from lens.extract.__main__ import main
def read():
    return int(dict(line.split(":") for line in open("/proc/self/io"))["rchar"])
import numpy, json, hashlib, lens.routers
before = read()
code = main(sys.argv[1:])
print("COUNTED", code, read() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the system counts no reads")
def test_extraction_from_64_full_layers_reads_routers_and_norms_alone(layout, tmp_path):
    """14.2 MB of 318 GB; the margin is for modules that are imported when used."""
    output = tmp_path / "routers.npz"
    done = subprocess.run(
        [sys.executable, "-c", EXTRACT, "--checkpoint", str(layout), "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    match = re.search(r"COUNTED (\d+) (\d+)", done.stdout)
    assert match is not None and match[1] == "0", done
    needed = 64 * (24727 + 196770)
    assert needed <= int(match[2]) < 1.1 * needed
    checkpoint, routers = open_checkpoint(layout), load_routers(output)
    for layer in (0, 2, 10, 63):
        np.testing.assert_array_equal(
            routers.routers[layer], np.asarray(checkpoint.read(router_path(layer)))
        )
        assert routers.norm_scales is not None
        np.testing.assert_array_equal(
            routers.norm_scales[layer], np.asarray(checkpoint.read(moe_norm_path(layer)))
        )
