"""What a network does to a download: each fault ends well, or in words, and loses nothing."""

from __future__ import annotations

import errno
import json
import threading

import huggingface_hub.constants
import numpy as np
import pytest

from benchmarks.hub.server import COMMIT, REPOSITORY, HubServer, serving
from grok.checkpoints.hub import access as hub_access
from grok.checkpoints.hub import ranges as hub_ranges
from lens.errors import LensError
from lens.extract.__main__ import main
from lens.extract.grok1 import extract_routers
from lens.extract.hub import extract_from_hub
from lens.extract.safetensors import extract_safetensors
from tests.hub_files import DATA, FILES, as_files, fetch_routers
from tests.small_models import CONFIG, ROUTER, model, write

NAME = "ckpt-0/tensor00013_000"  # the router of layer 0


@pytest.fixture
def impatient(monkeypatch):
    """Waits that a test can wait for."""
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setattr(huggingface_hub.constants, name, 0.3)
    for module in (hub_access, hub_ranges):
        monkeypatch.setattr(module, "TIMEOUT", 0.3)
    monkeypatch.setattr(hub_ranges, "WAIT", 0.0)


@pytest.fixture
def mixtral(hub: HubServer, tmp_path):
    """The server holds a model in one safetensors file; returns the folder of a copy."""
    folder = write(tmp_path / "m", model("mixtral", [0, 1]), CONFIG)
    hub.files = as_files(folder)
    return folder


# --- connections that break, stall or lead elsewhere ----------------------------------


@pytest.mark.parametrize("drops", [[0], [3], [3, 4, 5], [0, 0, 100]])
def test_a_range_that_breaks_goes_on_where_it_stopped(
    hub: HubServer, mixtral, impatient, drops: list[int]
):
    hub.drop["model.safetensors"] = list(drops)
    routers, fetched = extract_from_hub(REPOSITORY)
    expected, n_bytes = extract_safetensors(mixtral)
    assert routers.sha256 == expected.sha256
    assert hub.sent == fetched.n_bytes == n_bytes  # no byte came twice
    assert hub.drop["model.safetensors"] == []


def test_a_range_that_breaks_every_time_is_given_up(hub: HubServer, mixtral, impatient):
    hub.drop["model.safetensors"] = [1] * 100
    with pytest.raises(LensError, match="Check the connection"):
        extract_from_hub(REPOSITORY)
    n_broken = 100 - len(hub.drop["model.safetensors"])  # type: ignore[arg-type]
    assert n_broken == hub_ranges.TRIES


def test_a_file_that_breaks_off_is_asked_for_again_and_no_other_is(hub: HubServer, impatient):
    hub.drop[NAME] = 700
    others = threading.enumerate()
    routers, fetched = extract_from_hub(REPOSITORY)
    assert routers.sha256 == extract_routers(DATA / "tiny12").sha256
    left = [thread.name for thread in threading.enumerate() if thread not in others]
    assert "tqdm_monitor" not in left
    # The library keeps what came in pieces of megabytes; the file is begun again, no other is.
    assert hub.sent <= fetched.n_bytes + len(FILES["config.json"]) + 700
    assert hub.asked["GET file"] == 24 + 1 + 1


def test_a_slow_server_is_waited_for_as_long_as_bytes_come(hub: HubServer, tmp_path, impatient):
    wide = {ROUTER.format(0): np.random.default_rng(5).random((8, 2**14), np.float32)}
    folder = write(tmp_path / "wide", wide, {"model_type": "mixtral", "num_experts_per_tok": 2})
    hub.files = as_files(folder)
    hub.slow = 0.2  # seconds a piece: below the limit without a byte, far above it in all
    hub.drop["model.safetensors"] = [8, 1, 2**17 + 5]
    routers, fetched = extract_from_hub(REPOSITORY, norms=False)
    assert routers.sha256 == extract_safetensors(folder, norms=False)[0].sha256
    assert fetched.n_bytes == hub.sent > 2**19
    assert hub.drop["model.safetensors"] == []


@pytest.mark.parametrize("name", ["info", "model.safetensors"])
def test_a_server_that_never_answers_is_left(hub: HubServer, mixtral, impatient, name: str):
    hub.silent = {name}
    with pytest.raises(LensError, match="timed out. Check the connection. What was fetched"):
        extract_from_hub(REPOSITORY)


def test_a_file_that_never_comes_costs_none_of_the_others(hub: HubServer, impatient, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # waits of the library
    hub.silent = {"ckpt-0/tensor00049_000"}  # the last one asked for
    with pytest.raises(LensError, match="Check the connection. What was fetched is kept"):
        fetch_routers(REPOSITORY)
    sent = hub.sent
    hub.silent = set()
    fetched = fetch_routers(REPOSITORY)
    assert hub.sent - sent < fetched.n_bytes / 2


def test_a_redirect_to_another_server_does_not_carry_the_token_there(
    hub: HubServer, mixtral, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.token = "hf_secret"
    with serving(hub.files) as elsewhere:
        hub.redirect = elsewhere.address
        assert extract_from_hub(REPOSITORY)[0].n_layers == 2
        assert elsewhere.sent > 0 and elsewhere.tokens == {None}
        hub.files = elsewhere.files = dict(FILES)
        assert fetch_routers(REPOSITORY).n_files == 24
        assert elsewhere.tokens == {None}
    assert hub.sent == 0 and hub.tokens == {"Bearer hf_secret"}


# --- answers that are not what was asked for ------------------------------------------


@pytest.mark.parametrize(
    "listing",
    [
        b"<html><body>Sign in to use this network</body></html>",
        b"",
        b"[]",
        b'{"id": "tests/tiny", "sha": "%b", "siblings": 7}' % COMMIT.encode(),
        b'{"id": "tests/tiny", "sha": "%b", "siblings": [{"size": 1}]}' % COMMIT.encode(),
        b'{"id": "tests/tiny", "sha": "%b", "siblings": [{"rfilename": "a", "size": "x"}]}'
        % COMMIT.encode(),
    ],
)
def test_a_listing_that_is_none_is_explained(hub: HubServer, listing: bytes):
    hub.listing = listing
    with pytest.raises(LensError, match="not the Hub's. Check HF_ENDPOINT.*login page"):
        extract_from_hub(REPOSITORY)


@pytest.mark.parametrize("sha", ["", "main", "0123", "../../../etc"])
def test_a_revision_that_resolves_to_no_commit_is_refused(hub: HubServer, sha: str):
    hub.listing = json.dumps({"id": REPOSITORY, "sha": sha, "siblings": []}).encode()
    with pytest.raises(LensError, match="names no commit"):
        fetch_routers(REPOSITORY)


def test_bytes_of_another_range_are_refused(hub: HubServer, mixtral):
    hub.files = {name: bytes(content[:]) + b"xx" for name, content in hub.files.items()}
    hub.sizes = {name: len(content) - 2 for name, content in hub.files.items()}
    hub.shifted = 1
    with pytest.raises(LensError, match=r"sent bytes 1-\d+.\d+ for bytes 0 to \d+; expected that"):
        extract_from_hub(REPOSITORY)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "answered 401. Set HF_TOKEN"),
        (403, "answered 403. Set HF_TOKEN"),
        (404, "not there|answered 404"),
        (416, "answered 416. What was fetched is kept"),
        (451, "answered 451"),
        (500, "answered 500. It is busy"),
    ],
)
@pytest.mark.parametrize("where", ["info", "config.json", NAME])
def test_a_refusal_is_explained_wherever_it_comes(
    hub: HubServer, impatient, monkeypatch, where: str, status: int, message: str
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # waits of the library
    hub.status[where] = status
    with pytest.raises(LensError, match=message):
        extract_from_hub(REPOSITORY)
    hub.status.clear()
    assert extract_from_hub(REPOSITORY)[1].n_files == 24


def test_a_busy_server_is_asked_again(hub: HubServer, mixtral, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: hub.status.clear())
    hub.status["model.safetensors"] = 503
    assert extract_from_hub(REPOSITORY)[0].n_layers == 2


# --- disks ----------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 5])
def test_a_disk_that_fills_up_loses_no_file_that_was_whole(hub: HubServer, monkeypatch, after):
    """The library's own writes fail, after some files."""
    from huggingface_hub import file_download

    real, lock, calls = file_download.http_get, threading.Lock(), [0]

    def http_get(url, temp_file, **options):
        with lock:
            calls[0] += 1
            full = calls[0] > after + 1  # config.json comes first
        if full:
            temp_file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(url, temp_file, **options)

    monkeypatch.setattr(file_download, "http_get", http_get)
    with pytest.raises(LensError, match="disk of the cache is full. Free space, or set HF_HOME"):
        fetch_routers(REPOSITORY)
    monkeypatch.setattr(file_download, "http_get", real)
    gone = hub.asked["GET file"]
    assert extract_from_hub(REPOSITORY)[0].sha256 == extract_routers(DATA / "tiny12").sha256
    assert hub.asked["GET file"] - gone == 24 - after


def test_a_cache_that_cannot_be_written_is_not_called_a_connection(
    hub: HubServer, tmp_path, monkeypatch
):
    def refused(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", "cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    with pytest.raises(LensError, match="cache cannot be written. Set HF_HOME") as caught:
        fetch_routers(REPOSITORY)
    assert "connection" not in str(caught.value)


def test_routers_that_do_not_fit_beside_the_cache_leave_the_old_file(
    hub: HubServer, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "routers.npz"
    output.write_bytes(b"old")

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert main(["--hub", REPOSITORY, "--output", str(output)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert output.read_bytes() == b"old" and not list(tmp_path.glob(".routers*"))


# --- without the network --------------------------------------------------------------


@pytest.fixture
def forbidden(monkeypatch):
    """Forbids the network, as HF_HUB_OFFLINE=1 does."""
    return lambda: monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_what_was_fetched_before_opens_without_the_network(hub: HubServer, forbidden, revision):
    first, _ = extract_from_hub(REPOSITORY, revision=revision)
    asked = dict(hub.asked)
    forbidden()
    again, fetched = extract_from_hub(REPOSITORY, revision=revision)
    assert (again.sha256, again.source) == (first.sha256, first.source)
    assert (fetched.revision, fetched.n_files) == (COMMIT, 24)
    assert dict(hub.asked) == asked


def test_what_is_not_in_the_cache_is_refused_without_the_network(hub: HubServer, forbidden):
    extract_from_hub(REPOSITORY, norms=False)
    forbidden()
    assert extract_from_hub(REPOSITORY, norms=False)[0].norm_scales is None
    with pytest.raises(LensError, match="12 of 24 router and norm files are not there"):
        extract_from_hub(REPOSITORY)
    for other in ({"repository": "tests/other"}, {"revision": "0" * 40}):
        with pytest.raises(LensError, match="forbids the network.*cache does not have"):
            extract_from_hub(**{"repository": REPOSITORY, **other})
