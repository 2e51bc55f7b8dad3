"""Loading: checkpoints of other kinds, and what cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

import grok
from grok.architectures.grok1 import Grok1
from grok.checkpoints.grok1 import (
    Checkpoint,
    dequantize,
    is_matrix,
    open_checkpoint,
    write_checkpoint,
)
from grok.config import GROK_1
from grok.errors import CheckpointError, DeviceError, GrokError
from grok.runner import loading as runner
from grok.trace import RoutingTrace
from lens.extract.grok1 import extract_routers

DATA = Path(__file__).resolve().parents[2] / "data"
PROMPT = [5, 17, 3, 211, 80, 400, 9]


def same_routing(a: RoutingTrace, b: RoutingTrace, tolerance: float = 2e-5) -> bool:
    return (
        np.array_equal(a.tokens, b.tokens)
        and np.array_equal(np.sort(a.experts), np.sort(b.experts))
        and np.abs(a.router_logits - b.router_logits).max() < tolerance
        and np.abs(a.candidate_probs - b.candidate_probs).max() < tolerance
    )


@pytest.mark.parametrize("name", ["tiny3", "shard8"])
def test_a_trace_names_the_routers_that_decided_as_the_extracted_file_does(model, name):
    assert model(name).sha256 == extract_routers(DATA / name).sha256
    assert model(name).trace_routing(PROMPT).model_sha256 == model(name).sha256


# --- checkpoints of other kinds ------------------------------------------------------------


def tensors(checkpoint: Checkpoint) -> dict:
    return {path: checkpoint.read(path) for path in checkpoint.paths}


def test_a_float_checkpoint_gives_what_its_int8_original_gives(tiny3, tmp_path):
    original = open_checkpoint(DATA / "tiny3")
    floats = {
        path: dequantize(tensor).astype(np.float32) if is_matrix(path) else tensor
        for path, tensor in tensors(original).items()
    }
    write_checkpoint(tmp_path / "floats", original.config, floats)
    model = grok.load(tmp_path / "floats", dtype="float32", mesh=(1, 1))
    assert same_routing(model.trace_routing(PROMPT), tiny3.trace_routing(PROMPT), 1e-5)
    assert model.sha256 == tiny3.sha256


def test_bfloat16_embeddings_norms_and_routers_are_taken_as_their_values(tmp_path):
    original = open_checkpoint(DATA / "tiny3")
    narrow = {
        path: tensor if is_matrix(path) else tensor.astype(ml_dtypes.bfloat16)
        for path, tensor in tensors(original).items()
    }
    widened = {
        path: tensor if is_matrix(path) else tensor.astype(np.float32)
        for path, tensor in narrow.items()
    }
    traces = []
    for name, content in (("narrow", narrow), ("widened", widened)):
        write_checkpoint(tmp_path / name, original.config, content)
        model = grok.load(tmp_path / name, dtype="float32", mesh=(1, 1))
        traces.append(model.trace_routing(PROMPT))
    assert same_routing(*traces, 1e-5)
    assert traces[0].model_sha256 == traces[1].model_sha256


def test_ckpt_0_itself_can_be_named_and_progress_is_told(tiny3):
    told: list[tuple[int, int]] = []
    model = grok.load(
        DATA / "tiny3" / "ckpt-0",
        dtype="float32",
        mesh=(1, 1),
        progress=lambda *at: told.append(at),
    )
    assert told == [(i, 38) for i in range(1, 39)]
    assert model.name == "tiny3" and model.sha256 == tiny3.sha256


# --- what cannot be loaded -------------------------------------------------------------------


def test_an_unknown_dtype_is_refused():
    with pytest.raises(GrokError, match="dtype is 'float16'; expected bfloat16 or float32"):
        grok.load(DATA / "tiny3", dtype="float16")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        grok.load(tmp_path / "nowhere")


def test_a_model_too_large_for_the_devices_is_refused_with_both_sizes(monkeypatch, tmp_path):
    (tmp_path / "ckpt-0").mkdir()
    (tmp_path / "ckpt-0" / "tensor00013_000").touch()  # no config.json: this is Grok-1
    monkeypatch.setattr(runner, "device_memory", lambda: 16 * 10**9)
    with pytest.raises(DeviceError, match=r"take 31\d GB; the devices here hold 16 GB .*saved"):
        grok.load(tmp_path, mode="resident")


def test_grok_1_needs_about_its_318_gigabytes():
    needed = runner.memory_needed(Grok1(GROK_1))
    assert 318e9 * 0.98 < needed < 318.3e9
    assert runner.memory_needed(Grok1(GROK_1), as_released=False) > 1.2e12
    assert 1e8 < runner.device_memory() < 1e15


def test_an_incomplete_checkpoint_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    (tmp_path / "ckpt-0").mkdir()
    (tmp_path / "ckpt-0" / "tensor00013_000").touch()
    monkeypatch.setattr(runner, "device_memory", lambda: 10**12)
    monkeypatch.setattr(Checkpoint, "read", lambda *args: pytest.fail("read a tensor"))
    says = "769 of 770 tensor files are missing, the first is tensor00000_000 .*lens.extract"
    with pytest.raises(GrokError, match=says):
        grok.load(tmp_path)


def test_a_model_uses_the_device_it_was_put_on(tiny3):
    for leaf in jax.tree.leaves((tiny3.engine.embed_unembed.outer, tiny3.engine.layers.params)):
        assert leaf.devices() == {jax.devices()[0]}
