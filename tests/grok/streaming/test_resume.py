"""A streamed pass that was killed goes on from the last finished layer, with the same numbers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from grok.checkpoints.grok1 import layer_path, open_checkpoint
from grok.checkpoints.tensor_file import write_tensor
from grok.engine.progress import PassProgress
from grok.interventions.edits import edit
from grok.interventions.kinds import add_vector, scale
from grok.runner import loading as runner
from grok.streaming.resume import Kept
from grok.trace import RoutingTrace
from tests.grok.streamed import (
    PROMPT,
    After,
    copied,
    differ,
    layers_read,
    same_bits,
    streamed,
    traced,
)

ROOT = Path(__file__).resolve().parents[3]
KILLED_AFTER = 7  # layers

# Set up as the tests are, or the compiled programs, and with them the last bits, might differ.
VICTIM = f"""
import os, signal, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
from grok.engine.progress import watching
from grok.runner import loading as runner

def die(progress):
    if progress.layer >= {KILLED_AFTER}:
        os.kill(os.getpid(), signal.SIGKILL)

folder, kept = sys.argv[1:]
model = runner.load(folder, mode="streamed", dtype="float32", resume=kept)
with watching(die):
    model.trace_routing({PROMPT})
"""


class Crash(Exception):
    """Ends a pass from within, as a crash would for all that is on disk."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied("tiny12", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> RoutingTrace:
    """What a pass gives that nothing ends."""
    return traced(streamed(folder))


@pytest.fixture(scope="module")
def left_behind(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a process kept that was killed in mid-pass."""
    kept = tmp_path_factory.mktemp("kept")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, str(folder), str(kept)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return kept


@pytest.fixture
def kept(left_behind: Path, tmp_path: Path) -> Path:
    """A copy of that, which a test may spoil."""
    place = tmp_path / "kept"
    shutil.copytree(left_behind, place)
    return place


def files(place: Path) -> list[Path]:
    return sorted(file for file in place.rglob("*") if file.is_file())


def ended_after(model: runner.Model, layers: int, **options: object) -> None:
    def crash() -> None:
        raise Crash

    with pytest.raises(Crash):
        traced(model, After(layers, crash), **options)


# --- going on ---------------------------------------------------------------------------


def test_after_a_kill_another_process_reads_the_layers_that_are_left_and_gives_the_same_bits(
    folder: Path, kept: Path, whole: RoutingTrace
) -> None:
    assert files(kept)
    told: list[PassProgress] = []
    model = streamed(folder, resume=kept)
    assert same_bits(traced(model, told.append), whole)
    assert layers_read(model) == list(range(KILLED_AFTER, 12))
    by_layer = {f.layer: f.bytes_read for f in model.last_pass or []}
    again: list[PassProgress] = []
    traced(model, again.append)
    assert layers_read(model) == list(range(12))
    for figures in model.last_pass or []:
        if figures.layer in by_layer:
            assert by_layer[figures.layer] == figures.bytes_read > 0
    share = told[-1].bytes_read / again[-1].bytes_read
    assert share == pytest.approx((12 - KILLED_AFTER) / 12, abs=0.1)


def test_a_pass_that_is_done_leaves_nothing_to_go_on_from(
    folder: Path, kept: Path, whole: RoutingTrace
) -> None:
    model = streamed(folder, resume=kept)
    traced(model)
    assert files(kept) == []
    assert same_bits(traced(model), whole)
    assert layers_read(model) == list(range(12))


@pytest.mark.parametrize("layers", [1, 11])
def test_a_cancelled_pass_goes_on_where_it_was_in_the_same_process(
    folder: Path, tmp_path: Path, whole: RoutingTrace, layers: int
) -> None:
    model = streamed(folder, resume=tmp_path / "kept")
    ended_after(model, layers)
    assert same_bits(traced(model), whole)
    assert layers_read(model) == list(range(layers, 12))


def test_a_pass_that_is_ended_twice_goes_on_from_the_later_layer(
    folder: Path, tmp_path: Path, whole: RoutingTrace
) -> None:
    model = streamed(folder, resume=tmp_path / "kept")
    ended_after(model, 3)
    ended_after(model, 8)
    assert same_bits(traced(model), whole)
    assert layers_read(model) == list(range(8, 12))


def test_without_a_folder_nothing_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = streamed(folder)
    ended_after(model, 5)
    traced(model)
    assert layers_read(model) == list(range(12))
    assert files(tmp_path) == []


# --- what is not used -------------------------------------------------------------------


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_by_one(content: bytes) -> bytes:
    return content[:-1]


def emptied(_: bytes) -> bytes:
    return b""


def one_bit_turned(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


def garbage(content: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(content))


def zeros(content: bytes) -> bytes:
    return bytes(len(content))


@pytest.mark.parametrize("damage", [cut, cut_by_one, emptied, one_bit_turned, garbage, zeros])
def test_damaged_state_is_not_used_and_the_pass_starts_over(
    folder: Path, kept: Path, whole: RoutingTrace, damage: Callable[[bytes], bytes]
) -> None:
    for file in files(kept):
        file.write_bytes(damage(file.read_bytes()))
    model = streamed(folder, resume=kept)
    assert same_bits(traced(model), whole)
    assert layers_read(model) == list(range(12))


def test_state_that_says_it_has_layers_without_end_is_not_used(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "0" * 32)
    kept.place.mkdir()
    kept.save(2**31 - 2, [], [np.zeros(1, np.float32)])
    assert kept.load() is None


def test_what_a_crash_left_half_written_beside_whole_state_does_not_hinder(
    folder: Path, kept: Path, whole: RoutingTrace
) -> None:
    for file in files(kept):
        (file.parent / f".{file.name}.x1y2").write_bytes(cut(file.read_bytes()))
    model = streamed(folder, resume=kept)
    assert same_bits(traced(model), whole)
    assert layers_read(model) == list(range(KILLED_AFTER, 12))


def test_state_of_another_prompt_is_not_used(folder: Path, kept: Path) -> None:
    other = [*PROMPT[:-1], 78]
    model = streamed(folder, resume=kept)
    found = traced(model, prompt=other)
    assert layers_read(model) == list(range(12))
    assert same_bits(found, traced(streamed(folder), prompt=other))


def test_state_of_a_run_with_other_interventions_is_not_used(
    folder: Path, kept: Path, whole: RoutingTrace
) -> None:
    model = streamed(folder, resume=kept)
    edits = edit("attn.output", scale(0.0), layers=2)
    found = traced(model, edits=edits)
    assert layers_read(model) == list(range(12))
    assert same_bits(found, traced(streamed(folder), edits=edits))
    assert differ(found, whole)


def test_edits_that_read_the_same_with_other_values_are_other_edits(
    folder: Path, tmp_path: Path
) -> None:
    model = streamed(folder, resume=tmp_path / "kept")
    vectors = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    one, other = (edit("resid_mid", add_vector(v), layers=1) for v in vectors)
    ended_after(model, 6, edits=one)
    found = traced(model, edits=other)
    assert layers_read(model) == list(range(12))
    assert same_bits(found, traced(streamed(folder), edits=other))


def test_a_run_with_interventions_goes_on_with_the_same(folder: Path, tmp_path: Path) -> None:
    def edits():
        return edit("resid_mid", scale(1.5), layers=(2, 9), positions=-1)

    model = streamed(folder, resume=tmp_path / "kept")
    ended_after(model, 6, edits=edits())
    found = traced(model, edits=edits())
    assert layers_read(model) == list(range(6, 12))
    assert same_bits(found, traced(streamed(folder), edits=edits()))


def test_state_of_another_dtype_is_not_used(folder: Path, kept: Path, whole: RoutingTrace) -> None:
    model = runner.load(folder, mode="streamed", dtype="bfloat16", resume=kept)
    assert differ(traced(model), whole)
    assert layers_read(model) == list(range(12))


@pytest.mark.parametrize(
    "leaf", ["router/w", "multi_head_attention/query/w", "moe/linear_1/w", "rms_norm_1/scale"]
)
def test_state_of_a_model_with_another_weight_is_not_used(
    folder: Path, kept: Path, tmp_path: Path, whole: RoutingTrace, leaf: str
) -> None:
    changed = copied("tiny12", tmp_path)
    checkpoint = open_checkpoint(changed)
    path = layer_path(1, leaf)
    tensor = checkpoint.read(path)
    if isinstance(tensor, np.ndarray):
        write_tensor(checkpoint.file(path), np.asarray(tensor[::-1]))
    else:
        write_tensor(checkpoint.file(path), type(tensor)(-tensor.weight, tensor.scales))
    model = streamed(changed, resume=kept)
    found = traced(model)
    assert layers_read(model) == list(range(12))
    assert differ(found, whole)
    assert same_bits(found, traced(streamed(changed)))


# --- writing that fails -----------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "kept"
    place.write_text("a file")
    with pytest.raises(runner.GrokError, match="kept"):
        traced(streamed(folder, resume=place))
    assert place.read_text() == "a file"


def test_other_files_in_the_folder_stay(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "kept"
    place.mkdir()
    (place / "note.txt").write_text("mine")
    traced(streamed(folder, resume=place))
    assert [file.name for file in files(place)] == ["note.txt"]
