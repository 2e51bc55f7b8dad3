"""The arithmetic and the tables of the benchmark of the full size; nothing large is made."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fullsize import checkpoint as full_checkpoint
from benchmarks.fullsize import command as fullsize
from benchmarks.fullsize.checkpoint import make_checkpoint
from benchmarks.fullsize.command import (
    default_folder,
    expert_bytes,
    hidden,
    layer_bytes,
    main,
    other_bytes,
    report,
)
from benchmarks.fullsize.worker import Peaks, forget, long_worker, worker
from grok.checkpoints.grok1 import open_checkpoint
from grok.config import BUNDLED_MODEL, GROK_1
from grok.engine.progress import PassProgress

pytestmark = pytest.mark.benchmarks


def layer(i: int, read: float, compute: float, seconds: float, n_bytes: int) -> dict:
    return {
        "layer": i,
        "bytes_read": n_bytes,
        "read_seconds": read,
        "compute_seconds": compute,
        "wait_seconds": seconds - compute,
        "seconds": seconds,
        "peak": 5_000_000_000,
    }


def found(**changes: object) -> dict:
    whole = layer_bytes(GROK_1)
    one = 2 * expert_bytes(GROK_1) + other_bytes(GROK_1)
    layers = [layer(i, 3.0, 4.0, 5.0, whole) for i in range(2)]
    token = {
        "seconds": 4.0,
        "experts": [2, 2],
        "layers": [layer(i, 1.0, 0.5, 1.0, one) for i in range(2)],
    }
    passed = {
        "seconds": 12.0,
        "layers": layers,
        "experts": [8, 8],
        "finite": True,
        "processor": 15.0,
    }
    return {
        "load_seconds": 1.0,
        "prompt": "The ferry left",
        "has_tokenizer": True,
        "cold": passed | {"seconds": 20.0},
        "warm": passed,
        "tokens": [token] * 3,
        "peak": 6_000_000_000,
    } | changes


def test_a_layer_takes_the_bytes_of_the_released_files() -> None:
    values = sum(
        full_checkpoint.file_bytes(GROK_1, f"transformer/decoder_layer_0/{leaf}")
        for leaf in ("moe/linear/w", "moe/linear_1/w", "moe/linear_v/w")
    )
    assert 0 < values - 8 * expert_bytes(GROK_1) < 3000  # the pickles around them
    assert layer_bytes(GROK_1) == 8 * expert_bytes(GROK_1) + other_bytes(GROK_1)


def test_hidden_is_all_when_the_longer_sets_the_time_and_nothing_when_they_take_turns() -> None:
    assert hidden([layer(0, 3.0, 4.0, 4.0, 1)]) == 1
    assert hidden([layer(0, 3.0, 4.0, 7.0, 1)]) == 0
    assert hidden([layer(0, 3.0, 4.0, 5.5, 1)]) == pytest.approx(0.5)
    assert hidden([layer(0, 3.0, 4.0, 9.0, 1)]) == 0


def test_64_layers_are_said_to_be_extrapolated_from_the_mean_layer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report(found(), [2e9, 2e9], 8e9, 2) == 0
    lines = capsys.readouterr().out.splitlines()
    (whole,) = [line for line in lines if line.startswith("64 layers, 64 tokens")]
    assert "322 s" in whole and "extrapolated" in whole  # 64 * 5 and 2 for the ends
    (token,) = [line for line in lines if line.startswith("64 layers, seconds a token")]
    assert "66 s" in token and "extrapolated" in token


def test_each_layer_has_its_line_with_its_rate_beside_the_disk(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(found(), [2e9, 2e9], 8e9, 2)
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("layer  read GB"))
    for i, line in enumerate(lines[start + 1 : start + 3]):
        assert line.split() == [
            str(i),
            "4.92",
            "1.64",
            "82",
            "%",
            "3.00",
            "4.00",
            "1.00",
            "5.00",
        ] + ["5.00"]


def test_more_memory_than_the_budget_fails_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(found(peak=8_100_000_000), [2e9], 8e9, 2) == 1
    assert "limit 8 GB: NOT HELD" in capsys.readouterr().out


def test_a_long_prompt_that_takes_more_than_the_budget_fails_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    longest = {
        "seconds": 90.0,
        "processor": 150.0,
        "layers": found()["warm"]["layers"],
        "finite": True,
    }
    assert report(found(), [2e9], 8e9, 2, longest | {"peak": 7_900_000_000}, 2048) == 0
    assert report(found(), [2e9], 8e9, 2, longest | {"peak": 8_100_000_000}, 2048) == 1
    assert "peak memory of the process, 2,048 tokens" in capsys.readouterr().out
    infinite = longest | {"peak": 7_900_000_000, "finite": False}
    assert report(found(), [2e9], 8e9, 2, infinite, 2048) == 1


def test_reading_experts_that_no_token_chose_fails_the_command() -> None:
    token = found()["tokens"][0]
    layers = [one | {"bytes_read": layer_bytes(GROK_1)} for one in token["layers"]]
    assert report(found(tokens=[token | {"layers": layers}]), [2e9], 8e9, 2) == 1


def test_numbers_that_are_not_finite_fail_the_command() -> None:
    assert report(found(warm=found()["warm"] | {"finite": False}), [2e9], 8e9, 2) == 1


def test_the_checkpoint_goes_to_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder(3) == Path("/somewhere/grok-moe-lens/fullsize-3")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder(2) == Path("~/.cache/grok-moe-lens/fullsize-2").expanduser()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The command with a little checkpoint and a given result; the folders that the run saw."""
    seen: list[Path] = []

    def run(folder: Path, *given: object) -> dict:
        assert (folder / "ckpt-0" / "tensor00000_000").is_file()
        if not given[2:]:  # the long prompt goes through the same folder
            seen.append(folder)
        return found()

    def few(n_layers: int):
        return replace(
            GROK_1, n_layers=n_layers, vocab_size=64, d_model=64, n_heads=4, n_kv_heads=2, d_head=16
        )

    monkeypatch.setattr(fullsize, "few_layers", few)
    monkeypatch.setattr(fullsize, "in_child", run)
    monkeypatch.setattr(fullsize, "disk_rate", lambda _: 1e9)
    return seen


def test_the_checkpoint_is_removed_unless_it_is_kept_or_was_there_before(
    small: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fullsize, "report", lambda *_: 0)
    place = tmp_path / "made"
    assert main(["--folder", str(place)]) == 0
    assert small == [place] and not place.exists()
    assert main(["--folder", str(place), "--keep"]) == 0
    assert place.is_dir()
    assert main(["--folder", str(place)]) == 0
    assert place.is_dir()


def test_a_tokenizer_that_is_not_there_is_refused_before_anything_is_written(
    small: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--folder", str(tmp_path / "made"), "--tokenizer", str(tmp_path / "none")]
    assert main(arguments) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [] and small == []


def test_a_budget_too_small_is_refused_before_anything_is_written(
    small: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(tmp_path / "made"), "--memory-budget", "0.5"]) == 2
    assert "the smallest that works is" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [] and small == []


@pytest.mark.parametrize("wrong", ["--layers=0", "--layers=65", "--longest=-1", "--longest=9000"])
def test_numbers_that_grok_1_cannot_have_are_refused(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([wrong])
    assert "expected" in capsys.readouterr().err


def test_what_the_process_said_last_is_in_the_error_when_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\n  lines\nDeviceError: too small")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(fullsize.GrokError, match="ended with 1: .*DeviceError: too small"):
        fullsize.in_child(tmp_path, None, 8e9)


def test_the_worker_is_asked_for_the_budget_in_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple] = []
    monkeypatch.setattr(fullsize, "worker", lambda *given: asked.append(given) or {"peak": 1})
    monkeypatch.setattr(fullsize, "long_worker", lambda *given: asked.append(given) or {"peak": 2})
    command = ["--worker", "--folder", "there", "--memory-budget", "8.5", "--longest"]
    assert main([*command, "0"]) == main([*command, "300"]) == 0
    budget = 8_500_000_000
    assert asked == [(Path("there"), None, budget), (Path("there"), None, budget, 300)]
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"peak": 1}, {"peak": 2}]


def test_the_disk_is_measured_on_the_files_of_the_layers() -> None:
    checkpoint = open_checkpoint(BUNDLED_MODEL)
    forget(checkpoint)
    assert fullsize.disk_rate(checkpoint, seconds=0.2) > 1e6


def test_peaks_are_those_of_each_layer_and_the_whole_is_the_highest() -> None:
    def progress(layer: int) -> PassProgress:
        return PassProgress(layer, 3, layer / 4, 0, 1.0, None)

    peaks = Peaks()
    peaks.restart()
    peaks.all = 0  # what the process held at its highest before this test
    held = np.ones(300_000_000, np.uint8)
    peaks(progress(1))
    assert peaks.of_layer[0] == peaks.all > 300_000_000
    del held
    peaks(progress(2))
    peaks(progress(3))
    assert peaks.of_layer[2] < peaks.all - 200_000_000


def test_what_the_worker_finds_fills_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(
        GROK_1, n_layers=2, vocab_size=256, d_model=128, n_heads=4, n_kv_heads=2, d_head=32
    )
    make_checkpoint(tmp_path / "model", config)
    monkeypatch.setattr(fullsize, "few_layers", lambda _: config)
    monkeypatch.setattr(fullsize, "LIMIT_READ", 1.1)  # headers weigh more in files so small
    measured = json.loads(json.dumps(worker(tmp_path / "model", None, 8_000_000_000)))
    long = json.loads(json.dumps(long_worker(tmp_path / "model", None, 8_000_000_000, 96)))
    assert report(measured, [1e9, 1e9], 8e9, 2, long, 96) == 0
    shown = capsys.readouterr().out
    assert "token ids, for want of a tokenizer: " in shown
    assert [one["layer"] for one in measured["warm"]["layers"]] == [0, 1]
    assert len(measured["tokens"]) == 4
    for one, chosen in zip(measured["warm"]["layers"], measured["warm"]["experts"], strict=True):
        needed = chosen * expert_bytes(config) + other_bytes(config)
        # What no token chose may have been read ahead; pickles lie between values.
        assert needed <= one["bytes_read"] < layer_bytes(config) + 2000
        assert one["peak"] > 0
    for token in measured["tokens"]:
        for one, chosen in zip(token["layers"], token["experts"], strict=True):
            needed = chosen * expert_bytes(config) + other_bytes(config)
            # The scales of all experts are read, as it is not known yet which are chosen.
            scales = (8 - chosen) * (expert_bytes(config) - 3 * config.d_model * config.d_ff)
            assert 0 <= one["bytes_read"] - needed - scales < 2000
