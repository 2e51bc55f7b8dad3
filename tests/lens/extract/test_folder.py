"""Routers of the folder that the app is given: what its config says, read once, kept by content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from grok.architectures.families import open_checkpoint
from lens.extract import folder as extraction
from lens.extract.folder import folder_routers, kept_routers
from lens.storage.disk_cache import DiskCache

DATA = Path(__file__).resolve().parents[2] / "data"
FAMILIES = sorted(path for path in (DATA / "huggingface").iterdir() if path.is_dir())


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.name)
def test_routers_of_every_family_are_those_of_its_config(path):
    routers, config = folder_routers(path), open_checkpoint(path).config
    assert routers.layer_ids.tolist() == list(config.moe_layers)
    assert routers.routers.shape[1:] == (config.d_model, config.n_experts)
    assert routers.top_k == config.top_k
    assert routers.norm_scales is not None


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "cache")


@pytest.fixture
def reads(monkeypatch):
    """The folders that were read."""
    found = []

    def counted(path):
        found.append(path)
        return folder_routers(path)

    monkeypatch.setattr(extraction, "folder_routers", counted)
    return found


@pytest.mark.parametrize("name", ["tiny3", "huggingface/gpt_oss_mxfp4", "huggingface/deepseek_v2"])
def test_what_did_not_change_is_read_once(cache, reads, name):
    first = kept_routers(DATA / name, cache)
    again = kept_routers(DATA / name, cache)
    assert reads == [DATA / name]
    assert (again.key, again.source) == (first.key, first.source)
    np.testing.assert_array_equal(again.columns("canonical"), first.columns("canonical"))


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(DATA / "huggingface" / "qwen2_moe", tmp_path / "model")
    return tmp_path / "model"


def test_a_router_that_changed_in_its_place_gives_new_routers(cache, reads, copied):
    before = kept_routers(copied, cache)
    checkpoint = open_checkpoint(copied)
    place = checkpoint.locate("model.layers.1.mlp.gate.weight")
    found = place.file.stat()
    with place.file.open("r+b") as file:  # same size, and the old time put back
        file.seek(place.weight.offset)
        file.write(b"\x80\x3f")
    os.utime(place.file, ns=(found.st_atime_ns, found.st_mtime_ns))
    after = kept_routers(copied, cache)
    assert len(reads) == 2
    assert after.sha256 != before.sha256
    assert after.routers[1, 0, 0] == 1.0  # layer 1


def test_files_beside_the_routers_change_and_what_is_kept_is_the_same(cache, reads, copied):
    first = kept_routers(copied, cache)
    (copied / "README.md").write_text("of this model")
    assert kept_routers(copied, cache).key == first.key
    assert len(reads) == 2
    assert len(list(cache.folder.glob("routers-*.npz"))) == 1
    assert kept_routers(copied, cache).key == first.key
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["cut", "other routers", "no npz"])
def test_a_damaged_entry_is_put_away_and_the_folder_read_again(cache, reads, copied, damage):
    first = kept_routers(copied, cache)
    (entry,) = cache.folder.glob("routers-*.npz")
    if damage == "cut":
        entry.write_bytes(entry.read_bytes()[:-200])
    elif damage == "no npz":
        entry.write_bytes(b"\x80\x04cos\nsystem\n")
    else:
        key = entry.stem.removeprefix("routers-")
        arrays = cache.get("routers", key)
        cache.put("routers", key, arrays | {"routers": arrays["routers"] * 2})
    assert kept_routers(copied, cache).key == first.key
    assert len(reads) == 2
    assert kept_routers(copied, cache).key == first.key
    assert len(reads) == 2  # kept again, whole


def test_what_is_kept_stays_within_its_bound(tmp_path, reads):
    small = DiskCache(tmp_path / "small", max_bytes=40_000)
    for path in FAMILIES:
        kept_routers(path, small)
    assert len(reads) == len(FAMILIES)
    sizes = [file.stat().st_size for file in small.folder.iterdir()]
    assert 0 < sum(sizes) <= 40_000


def test_a_folder_that_cannot_be_kept_is_read_each_time(tmp_path, reads, copied):
    (tmp_path / "file").touch()
    cache = DiskCache(tmp_path / "file" / "below")
    assert kept_routers(copied, cache).key == kept_routers(copied, cache).key
    assert len(reads) == 2
