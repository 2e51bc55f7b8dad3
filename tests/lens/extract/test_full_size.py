"""Extraction from a checkpoint of the release's sizes reads none of its giants."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fullsize.sparse_layout import write_sparse_layout
from grok.checkpoints.grok1 import moe_norm_path, open_checkpoint, router_path
from grok.config import GROK_1
from lens.routers.router_set import load_routers

ROOT = Path(__file__).resolve().parents[3]
ORDER = sorted(range(64), key=str)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 770 files of Grok-1, the large ones sparse."""
    folder = tmp_path_factory.mktemp("layout") / "grok-1"
    write_sparse_layout(folder)
    return folder


def test_it_opens_as_grok_1_and_each_layer_has_its_own_router(layout):
    checkpoint = open_checkpoint(layout)
    assert checkpoint.config == GROK_1 and checkpoint.missing() == []
    assert checkpoint.file(router_path(2)).name == f"tensor{13 + 12 * ORDER.index(2):05d}_000"
    routers = [checkpoint.read(router_path(layer)) for layer in range(64)]
    assert all(router.shape == (6144, 8) for router in routers)
    assert len({np.asarray(router).tobytes() for router in routers}) == 64


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
