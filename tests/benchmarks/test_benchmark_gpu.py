"""The benchmark of a GPU, at small widths on a CPU: what it counts, and that it runs whole."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks.gpu import command as gpu
from benchmarks.gpu.layer import (
    DTYPE,
    FULL,
    SMALL,
    Ceilings,
    Cost,
    Running,
    Shape,
    cost,
    every_slot,
    random_layer,
)
from benchmarks.live import every_slot as every_slot_at_once
from grok.architectures.grok1 import Grok1
from grok.architectures.moe import Experts, run_selected
from grok.checkpoints.tensor_file import QuantizedWeight8bit
from grok.config import GROK_1
from grok.engine.compiled import layer_pass
from grok.streaming.device_layers import layer_bytes

pytestmark = pytest.mark.benchmarks


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))


def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if any(device.platform != "cpu" for device in jax.devices()):
        pytest.skip("there is one")
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == "no GPU here\n"


def test_in_small_it_runs_whole_and_claims_no_speed(
    capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path
) -> None:
    fewer = replace(gpu.IN_SMALL, prefill=16, decode=(), chain=1, repeats=1)
    monkeypatch.setattr(gpu, "IN_SMALL", fewer)
    assert gpu.main(["--small", "--layers", "3", "--folder", str(tmp_path / "layers")]) == 0
    said = capsys.readouterr().out
    for part in ("prefill of 16", "decode of 1", *gpu.WAYS, "of limit", "streamed"):
        assert part in said, part
    assert said.count("the same bits") in (2, 3) and "NOT" not in said
    assert "aim" not in said


def test_streamed_numbers_that_differ_fail_the_command(monkeypatch, mesh, tmp_path) -> None:
    monkeypatch.setattr(gpu, "one_layer", lambda *args: [])
    monkeypatch.setattr(gpu, "layer_table", lambda rows: "")
    monkeypatch.setattr(gpu, "resident_layers", lambda *args: [])
    bad = gpu.Passed("streamed", 2.0, 1.0, 10**9, same=False)
    good = gpu.Passed("resident", 1.0, 0.0, 0, same=True)
    monkeypatch.setattr(gpu, "streamed_layers", lambda *args: [good, bad])
    said: list[str] = []
    assert gpu.report(gpu.IN_SMALL, jax.devices()[0], tmp_path, said.append) == 1
    assert "NOT THE SAME" in said[-1] and "2.0" in said[-1]


def test_no_layers_to_stream_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--small", "--layers", "0"]) == 2
    assert "expected at least 1" in capsys.readouterr().err


# --- what is counted --------------------------------------------------------------------


def test_the_full_layer_is_the_release_s() -> None:
    assert (FULL.d_model, FULL.d_ff, FULL.n_experts, FULL.top_k) == (6144, 32768, 8, 2)
    assert layer_bytes(Grok1(FULL)) == layer_bytes(Grok1(GROK_1))
    assert gpu.AT_SIZE.decode == (1, 2, 4, 8) and gpu.AT_SIZE.prefill == 512


def test_operations_are_two_for_each_active_weight_and_each_score() -> None:
    one = replace(GROK_1, n_layers=1)
    weights = one.n_parameters(active=True) - one.d_model * (one.vocab_size + 1 + 4)
    found = cost(one, Shape(1, 1, 512), np.array([[[0, 1]]]))
    scores = 2 * one.n_heads * one.d_head * 512
    assert found.operations == 2 * (weights + scores)
    assert cost(one, Shape(4, 1, 512), np.zeros((4, 1, 2))).operations == 4 * found.operations


def test_bytes_follow_the_experts_that_were_chosen() -> None:
    shape = Shape(1, 1, 512)
    one, two, all_ = (
        cost(GROK_1, shape, np.arange(n).reshape(1, 1, n)).bytes for n in (1, 2, GROK_1.n_experts)
    )
    expert = 3 * GROK_1.d_model * GROK_1.d_ff
    assert two - one == pytest.approx(expert, rel=1e-3)
    assert all_ == pytest.approx(layer_bytes(Grok1(GROK_1)), rel=2e-3)
    assert cost(GROK_1, shape, np.array([[[3, 3]]])).bytes == one


@pytest.mark.parametrize(
    ("cost_", "seconds", "binds"),
    [(Cost(4e9, 1e9), 2.0, "memory"), (Cost(4e9, 9e12), 3.0, "arithmetic")],
)
def test_the_limit_is_the_larger_of_the_two(cost_: Cost, seconds: float, binds: str) -> None:
    limits = Ceilings(read=1e9, copy=2e9, matrix=3e12, put=1.0, put_pinned=None)
    assert limits.seconds(cost_) == (seconds, binds)


def test_the_aim_is_judged_by_the_better_way_and_never_by_every_slot() -> None:
    def timed(way: str, seconds: float) -> gpu.Timed:
        return gpu.Timed(Shape(1, 1, 8), way, seconds, 1e9, 1e9, 1.0, "memory", 0.0)

    ways = list(gpu.WAYS)
    rows = [timed(way, seconds) for way, seconds in zip(ways, (4.0, 1.6, 2.0, 1.1), strict=True)]
    assert gpu.aims(rows).endswith("62% of the memory limit (chosen, scaled after), aim 50%: held")
    assert gpu.aims([timed(ways[0], 4.0)]).endswith("NOT HELD")
    assert "0.3 x chosen (default), 0.7 x chosen, scaled after" in gpu.ratios(rows)


def test_a_device_without_room_for_two_layers_is_told_so(monkeypatch, tmp_path) -> None:
    class Small:
        platform, device_kind = "gpu", "small"

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 8 * 10**9, "bytes_in_use": 10**6}

    said: list[str] = []
    setting = replace(gpu.IN_SMALL, config=FULL)
    monkeypatch.setattr(gpu, "Mesh", lambda *args: None)
    assert gpu.report(setting, Small(), tmp_path, said.append) == 0
    assert "not measured: The devices have 8.0 GB together" in said[-1]
    monkeypatch.setattr(Small, "memory_stats", lambda self: {"bytes_limit": 141 * 10**9})
    assert 10 < gpu.holds(setting, Small()) < 141 / 4.9


@pytest.mark.parametrize("way", gpu.WAYS)
@pytest.mark.parametrize("shape", [Shape(1, 512, 512), Shape(8, 1, 512)], ids=lambda s: s.name)
def test_a_layer_at_full_size_is_lowered_for_a_gpu_in_every_way(mesh, way: str, shape) -> None:
    """Every operation has a form for GPUs; whether it is fast, only one can tell."""
    struct = jax.ShapeDtypeStruct
    params = jax.eval_shape(lambda: random_layer(FULL))
    model, positions = Grok1(FULL), shape.context
    cache = jax.eval_shape(lambda: model.empty_cache(shape.batch, positions, jnp.dtype(DTYPE)))
    lowered = layer_pass.trace(
        Grok1(FULL),
        params,
        struct((shape.batch, shape.tokens, FULL.d_model), jnp.float32),
        struct((), jnp.int32),
        struct((shape.batch, shape.context), bool),
        cache,
        gpu.WAYS[way],
        mesh,
    ).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert "8x6144x32768xi8" in text and "custom_call" not in text
    floats = [f"8x{a}x{b}x{dtype}" for a, b in ((6144, 32768), (32768, 6144))
              for dtype in ("bf16", "f32")]  # fmt: skip
    assert not any(one in text for one in floats)  # no float copy of all experts' matrices


# --- the layer --------------------------------------------------------------------------


def test_a_random_layer_keeps_rows_of_order_one_and_uses_every_expert(mesh: Mesh) -> None:
    params = random_layer(SMALL)
    assert isinstance(params["moe/linear_1/w"], QuantizedWeight8bit)
    assert params["moe/linear_1/w"].scales.shape == (8, 8, SMALL.d_model)
    values = np.asarray(params["moe/linear/w"].weight)
    assert values.min() == -128 and values.max() == 127 and abs(values.mean()) < 0.5
    assert np.abs(values[0] - values[1].astype(int)).any()
    running = Running(SMALL, mesh, Shape(1, 64, 64))
    for _ in range(3):
        h, choice = running.once(params, run_selected)
    assert 0.5 < float(jnp.std(h)) < 5 and np.isfinite(np.asarray(h)).all()
    assert len(np.unique(np.asarray(choice.experts))) == SMALL.n_experts


@pytest.mark.parametrize("way", gpu.WAYS)
def test_every_way_computes_the_same_layer(mesh: Mesh, way: str) -> None:
    params = random_layer(SMALL)
    running = Running(SMALL, mesh, Shape(2, 1, 16))
    want = np.asarray(running.once(params, run_selected)[0] - running.h)
    found = np.asarray(running.once(params, gpu.WAYS[way])[0] - running.h)
    assert np.linalg.norm(found - want) < 2e-2 * np.linalg.norm(want)


def test_one_expert_after_another_gives_what_all_at_once_give() -> None:
    rng = np.random.default_rng(0)
    n, d, f, e, k = 6, 8, 16, 4, 2
    own = Experts(*(jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((e, d, f),) * 2),
                  jnp.asarray(rng.standard_normal((e, f, d)), jnp.float32))  # fmt: skip
    pairs = list(itertools.permutations(range(e), k))[:n]
    x = jnp.asarray(rng.standard_normal((n, d)), jnp.float32)
    gates = jnp.asarray(rng.uniform(0.1, 0.5, (n, k)), jnp.float32)
    experts = jnp.asarray(pairs, jnp.int32)
    np.testing.assert_allclose(
        every_slot(x, experts, gates, own),
        every_slot_at_once(x, experts, gates, own),
        rtol=1e-4,
        atol=1e-4,
    )
