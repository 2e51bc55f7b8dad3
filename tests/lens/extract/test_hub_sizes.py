"""How little of a repository is asked for: files of the released sizes, ranges of many files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.hub.server import REPOSITORY, Content, HubServer, Sparse
from grok.checkpoints.hub.ranges import RANGES_AT_ONCE
from grok.checkpoints.tensor_index import INDEX
from lens.errors import LensError
from lens.extract.hub import GROK_1_SIZES, extract_from_hub
from lens.extract.safetensors import extract_safetensors
from tests.hub_files import as_files, fetch_routers
from tests.small_models import CONFIG, model, write


def grok_1_files() -> dict[str, Content]:
    """A listing of the released sizes of routers and norms; nothing in them."""
    files: dict[str, Content] = {f"ckpt-0/tensor{i:05d}_000": Sparse(10**9) for i in range(770)}
    for p in range(64):
        files[f"ckpt-0/tensor{13 + 12 * p:05d}_000"] = Sparse(GROK_1_SIZES["router"])
        files[f"ckpt-0/tensor{11 + 12 * p:05d}_000"] = Sparse(GROK_1_SIZES["norm"])
    return files


@pytest.mark.parametrize(("norms", "n_files", "megabytes"), [(True, 128, 14.2), (False, 64, 12.6)])
def test_of_grok_1_the_files_of_the_facts_are_fetched_and_no_giant(
    hub: HubServer, norms: bool, n_files: int, megabytes: float
):
    hub.files = grok_1_files()
    with pytest.raises(LensError, match="refused: pickle"):  # of the right sizes, but all zeros
        fetch_routers(REPOSITORY, norms=norms)
    assert round(hub.sent / 1e6, 1) == megabytes
    assert hub.asked["GET file"] == n_files and hub.asked["info"] == 1


@pytest.mark.parametrize("index", [11, 13, 769, 745])
@pytest.mark.parametrize("change", [-1, 1, None])
def test_a_size_one_byte_off_the_facts_is_refused_before_any_file(hub: HubServer, index, change):
    hub.files = grok_1_files()
    name = f"ckpt-0/tensor{index:05d}_000"
    hub.files[name] = Sparse(0 if change is None else len(hub.files[name]) + change)
    with pytest.raises(LensError, match=rf"{name} .*expected (196,770|24,727)"):
        fetch_routers(REPOSITORY)
    assert hub.sent == 0


# --- many files -----------------------------------------------------------------------


def sharded(folder: Path, n_layers: int, index: bool) -> dict[str, Content]:
    """A model with a file a layer and a giant in each, as large models come."""
    tensors = model("mixtral", list(range(n_layers)))
    where = {}
    folder.mkdir()
    for name in tensors:
        layer = name.split(".")[2] if name.startswith("model.layers") else "0"
        where[name] = f"model-{int(layer) + 1:05d}-of-{n_layers:05d}.safetensors"
    for file in set(where.values()):
        held = {name: tensors[name] for name in tensors if where[name] == file}
        held["expert.giant"] = np.zeros((512, 512), np.float32)
        save_file(held, folder / file)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if index:
        (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    return as_files(folder)


@pytest.mark.parametrize("index", [True, False])
def test_of_many_files_no_giant_is_read(hub: HubServer, tmp_path, index: bool):
    hub.files = sharded(tmp_path / "m", 5, index)
    routers, fetched = extract_from_hub(REPOSITORY)
    assert routers.sha256 == extract_safetensors(tmp_path / "m")[0].sha256
    assert hub.sent == fetched.n_bytes < 0.01 * hub.n_bytes
    assert hub.asked["HEAD file"] == 0 and hub.asked["info"] == 1


@pytest.mark.parametrize("index", [True, False])
def test_ranges_of_many_files_are_asked_for_side_by_side(hub: HubServer, tmp_path, index: bool):
    hub.files = sharded(tmp_path / "m", 12, index)
    hub.slow = 0.1  # seconds that each answer takes, so that they overlap
    routers, _ = extract_from_hub(REPOSITORY)
    assert routers.sha256 == extract_safetensors(tmp_path / "m")[0].sha256
    assert 4 <= hub.most_at_once <= RANGES_AT_ONCE


def test_files_in_folders_of_a_repository_are_none_of_the_model(hub: HubServer, tmp_path):
    mixtral = write(tmp_path / "m", model("mixtral", [0, 1]), CONFIG)
    hub.files = as_files(mixtral)
    hub.files["original/model.safetensors"] = b"another copy"
    hub.files["metal/config.json"] = b"{"
    assert extract_from_hub(REPOSITORY)[0].sha256 == extract_safetensors(mixtral)[0].sha256


def test_a_shard_that_the_index_names_and_the_repository_lacks_is_named(hub: HubServer, tmp_path):
    hub.files = sharded(tmp_path / "m", 3, True)
    del hub.files["model-00002-of-00003.safetensors"]
    with pytest.raises(LensError, match="1 of the files .* are not there: model-00002-of-00003"):
        extract_from_hub(REPOSITORY)


def test_a_sparse_content_reads_as_the_bytes_it_stands_for():
    parts = {3: b"abc", 10: b"xyz"}
    whole = bytearray(20)
    for at, part in parts.items():
        whole[at : at + 3] = part
    content = Sparse(20, parts)
    assert len(content) == 20
    for start in range(0, 20, 3):
        for stop in range(start, 21):
            assert content[start:stop] == bytes(whole[start:stop])
