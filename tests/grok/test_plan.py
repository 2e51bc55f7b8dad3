"""`python -m grok.plan`: what it measures, reads and prints, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.fullsize.sparse_layout import write_sparse_layout
from grok import plan
from grok.architectures.families import architecture_of
from grok.architectures.grok1 import Grok1
from grok.checkpoints.grok1 import Checkpoint, open_checkpoint
from grok.config import GROK_1
from grok.planning import machine
from grok.planning.machine import Rates
from grok.planning.modes import DEFAULT_BUDGET, streamed_bytes
from grok.units import size

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
GB = 1_000_000_000
MB = 1_000_000

LAPTOP = Rates(
    read_bytes_per_s=1.2e9,
    products_bytes_per_s=4e9,
    flops=200e9,
    memory_bytes=23 * GB,
    devices="CPU, 2 cores",
    device_bytes=23 * GB,
    read_from="Reading 500 MB of the checkpoint's files past the page cache.",
)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 770 files of Grok-1, the large ones sparse."""
    folder = tmp_path_factory.mktemp("layout") / "grok-1"
    write_sparse_layout(folder)
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of round numbers instead of this one."""
    monkeypatch.setattr(machine, "rates", lambda checkpoint, architecture, **options: LAPTOP)


def small_checkpoint(folder: Path, solid_mb: int) -> Checkpoint:
    """Three small layers, `solid_mb` MB of random bytes in place of the embedding's file."""
    config = replace(GROK_1, vocab_size=512, d_model=64, n_layers=3, n_heads=4, n_kv_heads=2)
    write_sparse_layout(folder, config)
    checkpoint = open_checkpoint(folder)
    (checkpoint.tensor_folder / "tensor00000_000").write_bytes(os.urandom(solid_mb * MB))
    return checkpoint


# --- what it prints -------------------------------------------------------------------------


def test_the_table_says_for_each_mode_what_it_holds_reads_and_takes(layout, measured, capsys):
    assert plan.main(["--checkpoint", str(layout)]) == 0
    out = capsys.readouterr().out
    lines = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    assert "grok-1: 64 layers, 8 experts, top 2, weights 318 GB" in out
    for row in (
        ["resident", "streamed"],
        ["fits here", "no", "yes"],
        ["memory", "318 GB", size(streamed_bytes(Grok1(GROK_1), DEFAULT_BUDGET, 64))],
        ["read from disk: a pass", "nothing", "318 GB"],
        ["a generated token", "nothing", "86 GB"],
        ["weights that a token uses", "86 GB", "86 GB"],
        ["time: a pass of 64 tokens", "-", "4 min"],
        ["a generated token", "-", "72 s"],
        ["limit: a pass", "-", "disk"],
    ):
        assert row in lines, row
    assert "1.2 GB/s" in out and LAPTOP.read_from in out
    assert "200 GFLOP/s" in out and "4.0 GB/s" in out
    assert "Times are estimates" in out
    assert out.splitlines()[-1].startswith("Chosen: streamed. The weights take 318 GB")


def test_the_table_shows_which_meshes_of_eight_80_gb_devices_hold_the_model(
    layout, measured, capsys
):
    assert plan.main(["--checkpoint", str(layout)]) == 0
    out = capsys.readouterr().out
    assert "Resident on 8 devices of 80 GB" in out and "2,048 tokens" in out
    fits = dict(re.findall(r"\((\d, \d)\).*(yes|no)$", out, re.MULTILINE))
    assert fits == {"1, 8": "yes", "2, 4": "no", "4, 2": "no", "8, 1": "no"}


def test_json_holds_the_same_in_bytes_and_seconds(layout, measured, capsys):
    options = ["--tokens", "2048", "--memory-budget", "12", "--json"]
    assert plan.main(["--checkpoint", str(layout), *options]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["checkpoint"] == "grok-1" and values["n_tokens"] == 2048
    assert values["chosen"] == "streamed" and values["missing_files"] == 0
    assert values["rates"]["read_bytes_per_s"] == 1.2e9
    resident, streamed = values["modes"]
    assert resident["mode"] == "resident" and resident["seconds_per_pass"] is None
    assert not resident["fits"] and streamed["fits"]
    assert streamed["memory_bytes"] <= 12 * GB and streamed["binds"] == "arithmetic"
    assert [mesh["fits"] for mesh in values["eight_devices"]] == [True, False, False, False]


def test_a_small_model_is_planned_resident_without_a_table_of_meshes(measured, capsys):
    assert plan.main(["--checkpoint", str(DATA / "tiny3")]) == 0
    out = capsys.readouterr().out
    assert "Chosen: resident." in out and "Resident on 8 devices" not in out


def test_a_mode_that_would_be_faster_than_the_chosen_is_named(monkeypatch, capsys, tmp_path):
    """A processor may take longer to widen resident weights than to stream them."""
    write_sparse_layout(tmp_path / "two", n_layers=2)
    slow = replace(LAPTOP, resident_bytes_per_s=0.2e9, resident_flops=20e9)
    monkeypatch.setattr(machine, "rates", lambda checkpoint, architecture, **options: slow)
    assert plan.main(["--checkpoint", str(tmp_path / "two")]) == 0
    out = capsys.readouterr().out
    assert "Chosen: resident." in out
    assert 'mode="streamed" would be faster: 11 s for a pass in place of 87 s.' in out
    fast = replace(LAPTOP, resident_bytes_per_s=10e9, resident_flops=400e9)
    monkeypatch.setattr(machine, "rates", lambda checkpoint, architecture, **options: fast)
    assert plan.main(["--checkpoint", str(tmp_path / "two")]) == 0
    assert "would be faster" not in capsys.readouterr().out


def test_files_that_are_not_there_are_said_and_the_plan_made_all_the_same(
    measured, capsys, tmp_path
):
    """Who holds the routers alone can ask what the rest would take."""
    write_sparse_layout(tmp_path / "part")
    for i in range(700, 770):
        (tmp_path / "part" / "ckpt-0" / f"tensor{i:05d}_000").unlink()
    assert plan.main(["--checkpoint", str(tmp_path / "part")]) == 0
    out = capsys.readouterr().out
    assert "70 of 770 files are missing, so it cannot run." in out and "Chosen: streamed" in out


# --- what it refuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--checkpoint", "/nowhere/at/all"], "/nowhere/at/all: there is no such folder"),
        (["--tokens", "0"], "number of tokens is 0; expected 1 or more"),
        (["--memory-budget", "0"], "--memory-budget is 0; expected gigabytes"),
        (["--memory-budget", "nan"], "--memory-budget is nan"),
        (["--memory-budget", "inf"], "--memory-budget is inf"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(options, says, monkeypatch, capsys):
    def fails(*given, **options):
        pytest.fail("measured")

    monkeypatch.setattr(machine, "rates", fails)
    assert plan.main(options) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("grok.plan: ") and says in shown.err


def test_a_budget_too_small_ends_with_code_2_after_the_table(layout, measured, capsys):
    assert plan.main(["--checkpoint", str(layout), "--memory-budget", "1"]) == 2
    shown = capsys.readouterr()
    assert "least memory that works" in shown.out and "Chosen" not in shown.out
    assert "The budget is 1.0 GB" in shown.err and "Give a memory budget of" in shown.err


# --- what it reads ------------------------------------------------------------------------------

COUNTING = """
import sys
opened = []
def audit(event, arguments):
    if event == "open" and "/tensor0" in str(arguments[0]):
        opened.append(arguments[0])
from grok import plan
from grok.architectures import grok1
from grok.engine import sharding
from grok.planning import machine, mesh, modes
sys.addaudithook(audit)
def read():
    return int(dict(line.split(":") for line in open("/proc/self/io"))["rchar"])
before = read()
code = plan.main(sys.argv[1:])
print("COUNTED", code, read() - before, len(opened))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the system counts no reads")
def test_no_file_of_a_sparse_checkpoint_is_opened(layout):
    """What is read is the file made for it, and modules that are imported when used."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, "--checkpoint", str(layout)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    code, n_read, n_opened = map(int, done.stdout.splitlines()[-1].split()[1:])
    assert code == 0 and n_opened == 0, done.stdout
    assert n_read < machine.OWN_FILE + 60 * MB
    assert "Chosen: streamed" in done.stdout
    assert sorted(os.listdir(layout / "ckpt-0"))[-1] == "tensor00769_000"  # nothing is left


def test_only_large_solid_files_are_read_and_no_longer_than_asked(tmp_path, monkeypatch):
    checkpoint = small_checkpoint(tmp_path / "model", solid_mb=64)
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *args, **kw: opened.append(str(path)) or real(path, *args, **kw)
    )
    rate, how = machine.read_rate(checkpoint, 0.3)
    assert rate is not None and rate > 1e6
    assert re.fullmatch(r"Reading \d+ MB of the checkpoint's files (past|through) .*cache\.", how)
    assert {Path(path).name for path in opened} == {"tensor00000_000"}
    nothing = machine.read_rate(checkpoint, 0.0)
    assert nothing == (None, "The disk was not measured: nothing was read in the time given.")


def test_a_sparse_file_says_nothing_about_the_disk(tmp_path):
    checkpoint = small_checkpoint(tmp_path / "model", solid_mb=1)
    with (checkpoint.tensor_folder / "tensor00001_000").open("wb") as stream:
        stream.truncate(10 * GB)
    rate, how = machine.read_rate(checkpoint, 0.3)
    assert rate is not None and "of a file made for it" in how
    assert "the checkpoint's own are too small or sparse" in how


def test_where_nothing_can_be_written_the_disk_is_not_measured(tmp_path, monkeypatch):
    def refuse(**options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    checkpoint = small_checkpoint(tmp_path / "model", solid_mb=1)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    rate, how = machine.read_rate(checkpoint, 0.3)
    assert rate is None and "not measured" in how and "Read-only file system" in how


def test_a_disk_that_fails_is_said_and_not_measured(tmp_path, monkeypatch):
    def fail(*arguments: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    checkpoint = small_checkpoint(tmp_path / "model", solid_mb=64)
    monkeypatch.setattr(os, "preadv", fail)
    rate, how = machine.read_rate(checkpoint, 0.3)
    assert rate is None and how == "The disk was not measured: Input/output error."


def test_a_file_system_without_direct_reads_is_read_through_the_cache(tmp_path, monkeypatch):
    real = os.open

    def buffered(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *rest, **options)

    checkpoint = small_checkpoint(tmp_path / "model", solid_mb=64)
    monkeypatch.setattr(os, "open", buffered)
    rate, how = machine.read_rate(checkpoint, 0.3)
    assert rate is not None and how.endswith("through the page cache.")


def test_this_machine_is_measured_with_its_memory_and_devices():
    checkpoint = open_checkpoint(DATA / "tiny3")
    found = machine.rates(checkpoint, architecture_of(checkpoint), seconds=0.2, resident=True)
    assert found.on_cpu and found.devices.startswith("CPU, ") and found.n_devices == 1
    assert found.memory_bytes > 0 and found.device_bytes > 0
    for rate in (found.products_bytes_per_s, found.resident_bytes_per_s):
        assert rate is not None and 1e6 < rate < 1e12
    for rate in (found.flops, found.resident_flops):
        assert rate is not None and 1e8 < rate < 1e15
    unasked = machine.rates(checkpoint, architecture_of(checkpoint), seconds=0.01)
    assert unasked.products_bytes_per_s is not None and unasked.resident_bytes_per_s is None
