"""Router files fetched from a server that speaks the Hub's protocol and misbehaves on purpose."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest

from benchmarks.hub.server import COMMIT, REPOSITORY, HubServer
from lens.errors import LensError
from lens.extract import hub as hub_module
from lens.extract.__main__ import main
from lens.extract.grok1 import extract_routers
from lens.extract.hub import extract_from_hub
from lens.extract.safetensors import extract_safetensors
from lens.routers.router_set import load_routers
from tests.hub_files import FILES, as_files, fetch_routers
from tests.small_models import CONFIG, FAMILIES, model, write

DATA = Path(__file__).resolve().parents[2] / "data"
ROOT = DATA.parents[1]
NEEDED = 24  # routers and norms of 12 layers


def test_only_the_files_of_routers_and_norms_are_fetched(hub: HubServer):
    told = []
    routers, fetched = extract_from_hub(REPOSITORY, progress=lambda *at: told.append(at))
    expected = extract_routers(DATA / "tiny12")
    np.testing.assert_array_equal(routers.routers, expected.routers)
    np.testing.assert_array_equal(routers.norm_scales, expected.norm_scales)
    assert routers.sha256 == expected.sha256
    assert (fetched.n_files, fetched.revision) == (NEEDED, COMMIT)
    assert routers.source == f"{REPOSITORY} at {COMMIT}"
    assert hub.asked["GET file"] == NEEDED + 1  # and config.json
    assert hub.sent == fetched.n_bytes + len(FILES["config.json"])
    assert hub.sent < 0.05 * sum(map(len, FILES.values()))
    assert told[-1] == (fetched.n_bytes, fetched.n_bytes) and len(told) == NEEDED
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_without_norms_half_the_files_are_fetched(hub: HubServer):
    routers, fetched = extract_from_hub(REPOSITORY, norms=False)
    assert routers.norm_scales is None and fetched.n_files == NEEDED // 2
    assert hub.asked["GET file"] == NEEDED // 2 + 1


def test_what_is_in_the_cache_is_not_fetched_again(hub: HubServer):
    fetch_routers(REPOSITORY)
    sent = hub.sent
    fetch_routers(REPOSITORY)
    fetch_routers(REPOSITORY, revision=COMMIT)
    assert hub.sent == sent


def test_a_download_that_breaks_repeats_no_file_that_was_whole(hub: HubServer):
    name = "ckpt-0/tensor00013_000"
    hub.drop[name] = 700
    try:
        extract_from_hub(REPOSITORY)
    except LensError as error:
        assert "run it again" in str(error)
    routers, fetched = extract_from_hub(REPOSITORY)
    assert routers.sha256 == extract_routers(DATA / "tiny12").sha256
    assert hub.sent <= fetched.n_bytes + len(FILES["config.json"]) + 700


def test_files_served_from_elsewhere_are_followed(hub: HubServer):
    hub.redirect = True
    routers, _ = extract_from_hub(REPOSITORY)
    assert routers.sha256 == extract_routers(DATA / "tiny12").sha256


def test_a_token_comes_from_the_environment_alone(hub: HubServer, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("hf_saved_on_this_machine")
    fetch_routers(REPOSITORY)
    assert hub.tokens == {None}
    hub.token = "hf_secret"
    with pytest.raises(LensError, match="no such repository, or it is private.*HF_TOKEN") as caught:
        fetch_routers(REPOSITORY)
    assert "hf_" not in str(caught.value).replace("HF_TOKEN", "")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch_routers(REPOSITORY).n_files == NEEDED


def test_a_wrong_size_is_refused_before_anything_is_fetched(hub: HubServer):
    hub.sizes["ckpt-0/tensor00025_000"] = 10**9
    with pytest.raises(LensError, match=r"tensor00025_000 .*router.* 1,000,000,000 bytes"):
        fetch_routers(REPOSITORY)
    assert hub.asked["GET file"] == 1  # config.json


def test_a_file_of_another_size_than_listed_is_dropped(hub: HubServer):
    name = "ckpt-0/tensor00025_000"
    hub.sizes[name] = len(FILES[name]) + 1
    with pytest.raises(LensError, match="expected"):
        fetch_routers(REPOSITORY)
    del hub.sizes[name]
    assert fetch_routers(REPOSITORY).n_files == NEEDED


def test_a_repository_without_config_is_held_to_grok_1_s_own_sizes(hub: HubServer):
    del hub.files["config.json"]
    with pytest.raises(LensError, match="of 128 router and norm files are not there"):
        fetch_routers(REPOSITORY)
    for i in range(770):
        hub.files.setdefault(f"ckpt-0/tensor{i:05d}_000", b"x")
    with pytest.raises(LensError, match="bytes there; expected 196,770"):
        fetch_routers(REPOSITORY)
    assert hub.asked["GET file"] == 0


@pytest.mark.parametrize(
    ("change", "call", "message"),
    [
        ({}, {"repository": "tests/other"}, "no such repository"),
        ({}, {"repository": "not a name"}, "OWNER/NAME"),
        ({}, {"repository": "../../etc/passwd"}, "OWNER/NAME"),
        ({}, {"revision": "nowhere"}, "no such revision"),
        ({"status": {"info": 403}}, {}, "answered 403.*HF_TOKEN"),
        ({"status": {"ckpt-0/tensor00013_000": 404}}, {}, "not there"),
        ({"status": {"ckpt-0/tensor00013_000": 403}}, {}, "answered 403. Set HF_TOKEN"),
        ({"status": {"ckpt-0/tensor00013_000": 416}}, {}, "answered 416. What was fetched is kept"),
        ({"files": {"README.md": b"x"}}, {}, "expected a safetensors file"),
        ({"files": {"ckpt-0x/tensor00000_000": b"x"}}, {}, "no .safetensors file"),
        ({"files": {**FILES, "config.json": b"{"}}, {}, "config"),
        ({"files": {**FILES, "config.json": b"x" * 2**21}}, {}, "at most 1,048,576"),
    ],
    ids=lambda value: "",
)
def test_what_the_server_refuses_is_explained(hub: HubServer, change, call, message):
    for name, value in change.items():
        setattr(hub, name, value)
    with pytest.raises(LensError, match=message) as caught:
        fetch_routers(**{"repository": REPOSITORY, **call})
    assert "Traceback" not in str(caught.value) and hub.address not in str(caught.value)


def test_no_connection_is_explained(hub: HubServer, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LensError, match="Check the connection. What was fetched is kept"):
        fetch_routers(REPOSITORY)


def test_a_full_disk_is_explained(hub: HubServer, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(LensError, match="disk of the cache is full.*HF_HOME"):
        fetch_routers(REPOSITORY)


def test_a_bug_of_ours_is_not_called_a_connection(hub: HubServer, monkeypatch):
    monkeypatch.setattr(hub_module, "_check_sizes", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fetch_routers(REPOSITORY)


def test_what_the_progress_raises_ends_the_download(hub: HubServer):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_routers(REPOSITORY, progress=stop)
    assert fetch_routers(REPOSITORY).n_files == NEEDED


def test_the_command_writes_the_routers_and_names_the_commit(hub: HubServer, tmp_path, capsys):
    output = tmp_path / "routers.npz"
    assert main(["--hub", REPOSITORY, "--output", str(output)]) == 0
    assert load_routers(output).source == f"{REPOSITORY} at {COMMIT}"
    said = capsys.readouterr().out
    assert f"commit {COMMIT}" in said and "from 24 files" in said
    assert main(["--hub", "tests/other", "--output", str(tmp_path / "b.npz")]) == 2
    assert not (tmp_path / "b.npz").exists()
    assert "Nothing was written" in capsys.readouterr().err
    for extra in (["--top-k", "2"], ["--score", "softmax"]):
        assert main(["--hub", REPOSITORY, "--output", str(output), *extra]) == 2
    arguments = ["--checkpoint", str(DATA / "tiny12"), "--revision", "x", "--output", str(output)]
    assert main(arguments) == 2


def test_an_environment_that_forbids_the_network_is_respected(hub: HubServer, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lens.extract", "--hub", REPOSITORY, "--output", "r.npz"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and "HF_HUB_OFFLINE" in done.stderr, done.stderr
    assert not hub.asked


# --- models in safetensors files ------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_of_safetensors_only_headers_and_routers_ranges_are_read(hub: HubServer, tmp_path, family):
    tensors = model(family, [0, 1, 2, 3])
    tensors["model.embed_tokens.weight"] = np.ones((4000, 64), np.float32)  # a megabyte
    config = {"model_type": family, "num_experts_per_tok": 2}
    write(tmp_path / "m", tensors, config)
    hub.files = as_files(tmp_path / "m")
    routers, fetched = extract_from_hub(REPOSITORY)
    expected, n_bytes = extract_safetensors(tmp_path / "m")
    assert routers.sha256 == expected.sha256
    assert fetched.n_bytes == n_bytes == hub.sent
    assert hub.sent < 0.2 * sum(map(len, hub.files.values()))
    assert routers.source == f"{REPOSITORY} at {COMMIT}: {expected.source}"
    assert fetched.folder is None
    assert hub.asked["GET file"] == len(hub.ranges)  # nothing but ranges


def test_ranges_follow_a_redirect_and_bring_a_token(hub: HubServer, tmp_path, monkeypatch):
    write(tmp_path / "m", model("mixtral", [0, 1]), CONFIG)
    hub.files = as_files(tmp_path / "m")
    hub.redirect, hub.token = True, "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert extract_from_hub(REPOSITORY)[0].n_layers == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"whole": True}, "the whole file for bytes"),
        ({"status": {"model.safetensors": 403}}, "answered 403. Set HF_TOKEN"),
        ({"status": {"model.safetensors": 416}}, "answered 416"),
        ({"status": {"model.safetensors": 404}}, "not there"),
        ({"sizes": {"model.safetensors": 10}}, "header is said to have|within the file"),
    ],
    ids=lambda value: "",
)
def test_ranges_that_a_server_does_not_serve_are_explained(
    hub: HubServer, tmp_path, monkeypatch, change, message
):
    write(tmp_path / "m", model("mixtral", [0, 1]), CONFIG)
    hub.files = as_files(tmp_path / "m")
    for name, value in change.items():
        setattr(hub, name, value)
    with pytest.raises(LensError, match=message):
        extract_from_hub(REPOSITORY)


def test_the_command_takes_the_settings_of_a_safetensors_model(hub: HubServer, tmp_path, capsys):
    write(tmp_path / "m", model("mixtral", [0, 1]), None)
    hub.files = as_files(tmp_path / "m")
    output = tmp_path / "routers.npz"
    assert main(["--hub", REPOSITORY, "--output", str(output)]) == 2
    assert "--top-k" in capsys.readouterr().err
    assert main(["--hub", REPOSITORY, "--output", str(output), "--top-k", "2"]) == 0
    assert load_routers(output).top_k == 2
