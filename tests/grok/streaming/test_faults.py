"""Streamed passes that meet damaged files, a failing disk, too little memory, or are ended."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok.architectures.grok1 import Grok1
from grok.checkpoints.grok1 import EMBEDDING, layer_path, open_checkpoint
from grok.checkpoints.tensor_file import QuantizedWeight8bit, write_tensor
from grok.config import GROK_1
from grok.engine.progress import PassProgress
from grok.errors import CheckpointError, DeviceError, GrokError
from grok.runner import loading as runner
from grok.streaming import host_layers as layers
from grok.streaming.host_memory import DEFAULT_BUDGET, sizes, smallest_budget
from grok.trace import RoutingTrace
from tests.grok.streamed import (
    After,
    copied,
    layers_read,
    no_file_left_open,
    no_thread_left,
    same_bits,
    streamed,
    traced,
)

LAST = 11
GELU = layer_path(LAST, "moe/linear/w")
DOWN = layer_path(LAST, "moe/linear_1/w")
QUERY = layer_path(LAST, "multi_head_attention/query/w")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copied("tiny12", tmp_path)


@pytest.fixture
def model(folder: Path) -> runner.Model:
    return streamed(folder)


@pytest.fixture(params=["through the page cache", "past it"])
def read_both_ways(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> runner.Model:
    """Small checkpoints are read through the page cache, large ones past it."""
    if request.param == "past it":
        monkeypatch.setattr(layers, "DIRECT_BYTES", 0)
    return streamed(folder)


def file_of(folder: Path, path: str) -> Path:
    return open_checkpoint(folder).file(path)


# --- files that break while a pass runs -------------------------------------------------


@pytest.mark.parametrize("path", [GELU, DOWN, QUERY])
def test_a_file_truncated_in_mid_pass_ends_it_with_its_name_and_the_model_stays_usable(
    folder: Path, read_both_ways: runner.Model, path: str
) -> None:
    whole = traced(read_both_ways)
    file = file_of(folder, path)
    content = file.read_bytes()
    truncate = After(2, lambda: os.truncate(file, len(content) // 2))
    with no_thread_left(), no_file_left_open(folder):
        with pytest.raises(CheckpointError, match=file.name):
            traced(read_both_ways, truncate)
        assert truncate.done
    file.write_bytes(content)
    assert same_bits(traced(streamed(folder)), whole)


def test_a_file_that_is_gone_in_mid_pass_ends_it_or_is_read_as_it_was(
    folder: Path, read_both_ways: runner.Model
) -> None:
    whole = traced(read_both_ways)
    try:
        found = traced(read_both_ways, After(2, file_of(folder, GELU).unlink))
    except CheckpointError as error:
        assert file_of(folder, GELU).name in str(error)
    else:
        assert same_bits(found, whole)


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "written over"])
def test_a_file_that_changes_in_mid_pass_is_refused_or_read_as_it_was(
    folder: Path, read_both_ways: runner.Model, replaced: bool
) -> None:
    whole = traced(read_both_ways)
    file = file_of(folder, GELU)
    tensor = open_checkpoint(folder).read(GELU)
    assert isinstance(tensor, QuantizedWeight8bit)

    def change() -> None:
        other = QuantizedWeight8bit(-tensor.weight, tensor.scales)
        write_tensor(folder / "other", other)
        if replaced:
            os.replace(folder / "other", file)
        else:
            file.write_bytes((folder / "other").read_bytes())

    try:
        found = traced(read_both_ways, After(2, change))
    except CheckpointError as error:
        assert file.name in str(error) and "changed" in str(error)
    else:
        assert replaced and same_bits(found, whole)


# --- a disk that fails ------------------------------------------------------------------


class FailingDisk:
    """Reads of one file raise EIO while it is out of order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
        self.file, self.broken, self.failed = file, False, 0
        for name in ("preadv", "pread", "read", "readv"):
            monkeypatch.setattr(os, name, self._instead_of(getattr(os, name)))

    def _instead_of(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def reading(descriptor: int, *arguments: Any) -> Any:
            if self.broken and os.readlink(f"/proc/self/fd/{descriptor}") == str(self.file):
                self.failed += 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(descriptor, *arguments)

        return reading


@pytest.mark.parametrize("path", [layer_path(0, "moe/linear/w"), GELU, DOWN])
def test_a_disk_error_in_mid_pass_ends_it_with_the_file_and_the_reason(
    folder: Path, read_both_ways: runner.Model, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = traced(read_both_ways)
    file = file_of(folder, path)
    disk = FailingDisk(monkeypatch, file)
    disk.broken = True
    with no_thread_left(), no_file_left_open(folder):
        with pytest.raises(CheckpointError, match=rf"{file.name}.*Input/output error"):
            traced(read_both_ways)
    assert disk.failed
    disk.broken = False
    assert same_bits(traced(read_both_ways), whole)


def test_a_disk_error_while_a_token_reads_its_experts_ends_the_generation(
    folder: Path, model: runner.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.generate([5, 6, 7], max_new_tokens=3)
    disk = FailingDisk(monkeypatch, file_of(folder, DOWN))
    steps = model.stream([5, 6, 7], max_new_tokens=3)
    next(steps)
    disk.broken = True
    with no_thread_left(), pytest.raises(CheckpointError, match="Input/output error"):
        next(steps)
    disk.broken = False
    assert model.generate([5, 6, 7], max_new_tokens=3).new_tokens == whole.new_tokens


def test_reads_that_come_in_small_parts_give_the_same_numbers(
    folder: Path, read_both_ways: runner.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = traced(read_both_ways)
    read, calls = os.preadv, []

    def little(descriptor: int, buffers: Any, *arguments: Any) -> int:
        calls.append(descriptor)
        return read(descriptor, [memoryview(buffers[0]).cast("B")[:4096]], *arguments)

    monkeypatch.setattr(os, "preadv", little)
    assert same_bits(traced(read_both_ways), whole)
    assert calls


# --- too little memory ------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensor files opened since."""
    names: list[str] = []
    live = [True]

    def hook(event: str, arguments: tuple) -> None:
        if live and event == "open" and "tensor0" in str(arguments[0]):
            names.append(Path(str(arguments[0])).name)

    sys.addaudithook(hook)
    yield names  # type: ignore[misc]
    live.clear()


def test_a_budget_too_small_is_refused_with_the_smallest_before_anything_is_read(
    folder: Path, opened: list[str]
) -> None:
    least = smallest_budget(Grok1(open_checkpoint(folder).config))
    with pytest.raises(DeviceError, match="budget") as refused:
        streamed(folder, memory_budget=least - 1)
    assert opened == []
    streamed(folder, memory_budget=least)
    assert opened
    assert f"({least:,} bytes)" in str(refused.value)


def test_the_smallest_budget_works_with_the_same_numbers(folder: Path, model: runner.Model) -> None:
    least = smallest_budget(Grok1(open_checkpoint(folder).config))
    assert same_bits(traced(streamed(folder, memory_budget=least)), traced(model))


def test_grok_1_fits_the_default_budget_with_prompts_of_2048_tokens_and_not_a_tenth_of_it() -> None:
    sizes(Grok1(GROK_1), DEFAULT_BUDGET, n_tokens=2048)
    least = smallest_budget(Grok1(GROK_1), n_tokens=2048)
    assert least <= DEFAULT_BUDGET
    with pytest.raises(DeviceError, match="GB"):
        sizes(Grok1(GROK_1), DEFAULT_BUDGET // 10, n_tokens=2048)


# --- cancelled --------------------------------------------------------------------------


class Cancelled(Exception):
    """Raised by a watcher that has seen enough."""


@pytest.mark.parametrize("n_layers", [0, 1, 6, 12])
def test_a_watcher_that_raises_ends_the_pass_and_the_next_one_gives_the_same(
    folder: Path, model: runner.Model, n_layers: int
) -> None:
    whole = traced(model)

    def stop() -> None:
        raise Cancelled

    with no_thread_left(), no_file_left_open(folder):
        with pytest.raises(Cancelled):
            traced(model, After(n_layers, stop))
        assert same_bits(traced(model), whole)


def test_passes_that_are_ended_again_and_again_leave_all_buffers_to_the_next(
    folder: Path, model: runner.Model
) -> None:
    whole = traced(model)

    def stop() -> None:
        raise Cancelled

    for i in range(12):
        with pytest.raises(Cancelled):
            traced(model, After(i, stop))
    assert same_bits(traced(model), whole)


def test_two_threads_may_run_one_model_and_each_is_told_of_its_own_pass(
    model: runner.Model,
) -> None:
    prompts = [[5, 17, 3], [9, 8, 7, 6, 5, 4, 3]]
    alone = [traced(model, prompt=prompt) for prompt in prompts]
    told: list[list[PassProgress]] = [[], []]

    def run(i: int) -> list[RoutingTrace]:
        return [traced(model, told[i].append, prompt=prompts[i]) for _ in range(4)]

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, range(2)))
    for found, expected in zip(results, alone, strict=True):
        assert all(same_bits(one, expected) for one in found)
    for calls in told:
        ends = [i for i, p in enumerate(calls) if p.fraction == 1]
        assert len(ends) == 4
        assert [p.layer for p in calls[: ends[0]]] == sorted(p.layer for p in calls[: ends[0]])


def test_a_generation_that_is_left_after_a_token_leaves_no_thread(
    folder: Path, model: runner.Model
) -> None:
    model.generate([5, 6, 7], max_new_tokens=1)
    with no_thread_left(), no_file_left_open(folder):
        steps = model.stream([5, 6, 7], max_new_tokens=8)
        next(steps)
        next(steps)
        steps.close()  # type: ignore[attr-defined]


def test_progress_goes_through_the_layers_in_order_and_counts_the_bytes_of_their_files(
    folder: Path, model: runner.Model
) -> None:
    told: list[PassProgress] = []
    traced(model, told.append)
    assert [p.layer for p in told] == sorted(p.layer for p in told)
    assert set(range(1, 13)) <= {p.layer for p in told}
    assert told[-1].fraction == 1
    assert all(a.fraction <= b.fraction for a, b in zip(told, told[1:], strict=False))
    assert all(a.bytes_read <= b.bytes_read for a, b in zip(told, told[1:], strict=False))
    assert layers_read(model) == list(range(12))
    experts = [
        file_of(folder, layer_path(layer, f"moe/{name}/w")).stat().st_size
        for layer in range(12)
        for name in ("linear", "linear_1", "linear_v")
    ]
    assert told[-1].bytes_read > 0.5 * sum(experts)
    assert told[-1].bytes_read < 1.1 * sum(f.stat().st_size for f in (folder / "ckpt-0").iterdir())


# --- files that are wrong from the start ------------------------------------------------


@pytest.mark.parametrize("path", [EMBEDDING, layer_path(3, "moe/linear_v/w"), QUERY])
def test_a_file_that_is_missing_is_named_at_the_load(folder: Path, path: str) -> None:
    file_of(folder, path).unlink()
    with pytest.raises(GrokError, match=f"{file_of(folder, path).name}.*missing|missing"):
        streamed(folder)


@pytest.mark.parametrize("damage", ["short", "long", "foreign", "other shape"])
def test_a_damaged_file_is_refused_by_name_at_the_load_or_in_the_pass(
    folder: Path, damage: str, tmp_path: Path
) -> None:
    file = file_of(folder, GELU)
    content = file.read_bytes()
    if damage == "short":
        file.write_bytes(content[:-10])
    elif damage == "long":
        file.write_bytes(content + b"more")
    elif damage == "foreign":
        file.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/ran'\ntR.")
    else:
        shutil.copyfile(file_of(folder, DOWN), file)
    with no_thread_left(), pytest.raises(CheckpointError, match=file.name):
        traced(streamed(folder))
    assert not (tmp_path / "ran").exists()


def test_scales_that_are_not_finite_are_refused_by_name(folder: Path) -> None:
    tensor = open_checkpoint(folder).read(GELU)
    assert isinstance(tensor, QuantizedWeight8bit)
    scales = tensor.scales.copy()
    scales[3, 0, 7] = np.nan
    write_tensor(file_of(folder, GELU), QuantizedWeight8bit(tensor.weight, scales))
    with pytest.raises(CheckpointError, match=rf"{file_of(folder, GELU).name}.*not finite"):
        traced(streamed(folder))
