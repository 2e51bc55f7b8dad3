"""Layers that pass through the devices give what resident ones give, two at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from grok.architectures.grok1 import Grok1
from grok.checkpoints.grok1 import layer_path, open_checkpoint
from grok.config import GROK_1
from grok.engine.compiled import Forward
from grok.engine.engine import Batch, Engine
from grok.engine.progress import PassProgress, watching
from grok.engine.sharding import make_mesh
from grok.errors import CheckpointError, DeviceError
from grok.interventions.hooks import no_hooks
from grok.streaming.device_layers import (
    ON_DEVICES,
    DeviceLayers,
    embed_unembed_on_devices,
    fit,
    layer_bytes,
    other_bytes,
    passing,
)
from tests.grok.streamed import DATA, copied, no_file_left_open, no_thread_left

TOKENS = np.array([[5, 17, 3, 211, 80, 400, 9, 44], [7, 1, 2, 3, 450, 6, 0, 0]])


def engine(
    folder: Path, stay: int, dtype: str = "float32", mesh: tuple[int, int] = (1, 1), **options
) -> Engine:
    checkpoint = open_checkpoint(folder)
    devices = make_mesh(checkpoint.config, mesh)
    model = Grok1(checkpoint.config)
    layers = DeviceLayers(checkpoint, model, dtype, devices, stay, **options)
    outside = embed_unembed_on_devices(checkpoint, model, dtype, devices)
    return Engine(model, dtype, layers, outside, tells=True)


def run(engine: Engine, *tokens: np.ndarray) -> list[Forward]:
    return engine.run([Batch(t, 0, t > 0, None, 3, no_hooks(engine.config)) for t in tokens])


def same_bits(a: Forward, b: Forward) -> bool:
    arrays = [(x, y) for x, y in zip(a, b, strict=True) if isinstance(x, np.ndarray)]
    return len(arrays) >= 7 and all(x.tobytes() == y.tobytes() for x, y in arrays)


@pytest.mark.parametrize(
    ("dtype", "stay"),
    [("bfloat16", 5), *(("float32", stay) for stay in (0, 1, 5, 11, 12))],
)
def test_layers_that_pass_give_the_bits_of_resident_ones(model, dtype: str, stay: int):
    resident = model("tiny12", dtype)
    own = engine(DATA / "tiny12", stay, dtype)
    short = TOKENS[:, :5]
    for again in range(2):  # a second walk reads anew
        found = run(own, TOKENS, short)
        for one, tokens in zip(found, (TOKENS, short), strict=True):
            assert same_bits(one, resident.forward(tokens, candidates=3)), again


@pytest.mark.parametrize(
    ("name", "mesh"),
    [("shard8", (1, 8)), ("tiny3_bf16scales", (2, 4))],
)
def test_on_a_mesh_they_give_the_bits_of_resident_ones_on_it(model, name: str, mesh):
    resident = model(name, "float32", mesh)
    own = engine(DATA / name, 1, "float32", mesh)
    assert same_bits(run(own, TOKENS)[0], resident.forward(TOKENS, candidates=3))


@pytest.mark.parametrize("pinned", [False, True])
def test_pinned_memory_changes_no_bit(model, pinned: bool):
    own = engine(DATA / "tiny3", 0, pinned=pinned)
    assert own.layers.pinned is pinned  # type: ignore[attr-defined]
    assert same_bits(run(own, TOKENS)[0], model("tiny3").forward(TOKENS, candidates=3))


@pytest.mark.parametrize("stay", [0, 3, 10])
def test_at_most_two_passing_layers_are_on_the_devices(stay: int):
    own = engine(DATA / "tiny12", stay)
    run(own, TOKENS)
    assert own.layers.on_devices == ON_DEVICES == 2  # type: ignore[attr-defined]
    assert len(own.layers.kept) == stay  # type: ignore[attr-defined]


def test_only_the_layers_that_pass_are_read_and_each_once():
    config = open_checkpoint(DATA / "tiny12").config
    told: list[PassProgress] = []
    for stay, n_bytes in ((12, 0), (8, 4), (0, 12)):
        own = engine(DATA / "tiny12", stay)
        spans = sum(
            piece.n_bytes
            for i in own.layers.passing  # type: ignore[attr-defined]
            for piece in own.layers.spans(i)  # type: ignore[attr-defined]
        )
        with watching(told.append):
            run(own, TOKENS, TOKENS[:, :5])
        assert told[-1].bytes_read == spans
        figures = own.layers.last_pass  # type: ignore[attr-defined]
        assert [one.layer for one in figures] == list(range(12))
        assert sum(one.bytes_read for one in figures) == spans
        assert [one.layer for one in figures if one.bytes_read] == own.layers.passing  # type: ignore[attr-defined]
        assert all(one.wait_seconds == 0 for one in figures if not one.bytes_read)
        assert len(own.layers.passing) == n_bytes  # type: ignore[attr-defined]
    assert told[-1].layer == config.n_layers and told[-1].fraction == 1.0


def test_generation_over_caches_gives_the_tokens_of_the_resident_model(model):
    resident = model("tiny3")
    want = resident.generate(TOKENS[0], max_new_tokens=5)
    kept, resident.engine = resident.engine, engine(DATA / "tiny3", 1)
    try:
        assert resident.generate(TOKENS[0], max_new_tokens=5).new_tokens == want.new_tokens
    finally:
        resident.engine = kept


@pytest.mark.parametrize("layer", [0, 4, 11])
def test_a_watcher_that_raises_ends_the_pass_and_leaves_nothing_behind(model, layer: int):
    class Cancelled(Exception):
        pass

    def cancel(progress: PassProgress) -> None:
        if progress.layer >= layer:
            raise Cancelled

    own = engine(DATA / "tiny12", 0)
    with no_thread_left(), no_file_left_open(DATA / "tiny12"):
        with pytest.raises(Cancelled), watching(cancel):
            run(own, TOKENS)
    again = run(own, TOKENS)[0]
    assert same_bits(again, model("tiny12").forward(TOKENS, candidates=3))


def damaged(folder: Path, how: Callable[[Path], None]) -> tuple[Engine, Path]:
    own = engine(folder, 0)
    file = open_checkpoint(folder).file(layer_path(7, "moe/linear_v/w"))
    how(file)
    return own, file


def cut(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def replaced(file: Path) -> None:
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize("how", [cut, Path.unlink, replaced])
def test_a_file_that_goes_bad_in_a_pass_is_named_and_no_thread_is_left(tmp_path, how):
    own, file = damaged(copied("tiny12", tmp_path), how)
    with no_thread_left():
        with pytest.raises(CheckpointError, match=file.name):
            run(own, TOKENS)


def test_values_that_are_not_finite_are_refused(tmp_path):
    folder = copied("tiny3", tmp_path)
    own = engine(folder, 0)
    norm = own.layers.tensors[layer_path(2, "rms_norm/scale")]  # type: ignore[attr-defined]
    with norm.file.open("r+b") as stream:
        stream.seek(norm.weight.offset)
        stream.write(np.float32(np.nan).tobytes())
    own = engine(folder, 0)
    with no_thread_left(), pytest.raises(CheckpointError, match="1 values are not finite"):
        run(own, TOKENS)


def test_two_passes_at_once_take_turns(model):
    own = engine(DATA / "tiny3", 0)
    found: list[Forward] = []
    threads = [threading.Thread(target=lambda: found.append(run(own, TOKENS)[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    want = model("tiny3").forward(TOKENS, candidates=3)
    assert len(found) == 3 and all(same_bits(one, want) for one in found)


# --- how many stay --------------------------------------------------------------------


def test_the_bytes_of_a_layer_of_grok_1_are_those_of_its_files():
    files = 2 * 1_611_137_347 + 1_611_399_491 + 2 * 6_293_814 + 37_847_359 + 37_761_334
    files += 4 * 24_727 + 196_770
    assert layer_bytes(Grok1(GROK_1)) == pytest.approx(files, rel=0.002)
    assert layer_bytes(Grok1(GROK_1)) >= files - 12 * 4096  # what is not values is left out


@pytest.mark.parametrize("n_tokens", [1, 64, 2048])
def test_what_stays_and_what_passes_fill_the_devices_and_no_more(n_tokens: int):
    one, other = layer_bytes(Grok1(GROK_1)), other_bytes(Grok1(GROK_1), n_tokens)
    for gigabytes in (20, 40, 80, 141, 320):
        if other + 2 * one > gigabytes * 10**9:
            continue
        stay = fit(Grok1(GROK_1), gigabytes * 10**9, n_tokens)
        taken = other + (stay + ON_DEVICES) * one
        assert taken <= gigabytes * 10**9 < taken + one or stay == GROK_1.n_layers - 1
    assert fit(Grok1(GROK_1), 8 * 80 * 10**9, n_tokens) == GROK_1.n_layers


def test_devices_without_room_for_two_layers_are_refused_with_what_works():
    with pytest.raises(DeviceError, match=r"2,048 tokens they need (\S+) GB") as caught:
        fit(Grok1(GROK_1), 8 * 10**9)
    needed = float(str(caught.value).split("they need ")[1].split(" GB")[0])
    assert fit(Grok1(GROK_1), int((needed + 0.1) * 1e9)) == 0
    with pytest.raises(DeviceError):
        fit(Grok1(GROK_1), int((needed - 0.1) * 1e9))


@pytest.mark.parametrize("n_layers", [1, 3, 12, 64])
def test_layers_that_pass_are_spread_evenly(n_layers: int):
    for stay in range(n_layers + 1):
        found = passing(n_layers, stay)
        assert len(found) == n_layers - stay == len(set(found))
        gaps = np.diff([-1, *found])
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_more_rows_than_have_room_are_refused_before_anything_is_read():
    checkpoint = open_checkpoint(DATA / "tiny3")
    config = checkpoint.config
    room = 3 * layer_bytes(Grok1(config)) + other_bytes(Grok1(config), 64)
    mesh = make_mesh(config, (1, 1))
    layers = DeviceLayers(
        checkpoint, Grok1(checkpoint.config), "float32", mesh, 1, device_bytes=room
    )
    with layers.walk(64):
        pass
    with pytest.raises(DeviceError, match="65 token rows.*fewer or shorter prompts"):
        with layers.walk(65):
            raise AssertionError


def test_a_number_of_layers_outside_the_model_is_refused():
    with pytest.raises(DeviceError, match="expected 0 to 3"):
        engine(DATA / "tiny3", 4)


def test_loading_tells_of_every_tensor_that_stays():
    told: list[tuple[int, int]] = []
    engine(DATA / "tiny12", 5, progress=lambda *at: told.append(at))
    assert told == [(i + 1, 60) for i in range(60)]
