"""The same numbers on any mesh, each device holding its share; Grok-1's shapes at full size."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import grok
from grok.architectures.grok1 import Grok1
from grok.checkpoints.grok1 import (
    EMBEDDING,
    dequantize,
    expected_shape,
    is_matrix,
    layer_path,
    open_checkpoint,
    spec_at,
    write_checkpoint,
)
from grok.checkpoints.tensor_file import QuantizedWeight8bit
from grok.config import GROK_1
from grok.engine import compiled as passes
from grok.engine.sharding import initialize_distributed, make_mesh, partition, processors
from grok.errors import DeviceError
from grok.interventions.hooks import CompiledHook
from grok.planning.mesh import parameter
from grok.trace import RoutingTrace

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "tests" / "data"
PROMPT = np.random.default_rng(0).integers(1, 512, 33)
MOE, ATTENTION = "moe/linear/w", "multi_head_attention/"


def assert_same_numbers(got: RoutingTrace, wanted: RoutingTrace) -> None:
    """Float32 sums in another order: measured 1e-5 on router logits up to 10 after three
    layers and 6e-5 after twelve, 1e-5 on gates."""
    assert np.array_equal(got.tokens, wanted.tokens)  # the continuation too
    assert np.array_equal(np.sort(got.experts), np.sort(wanted.experts))
    assert np.abs(got.router_logits - wanted.router_logits).max() < 2e-4
    assert np.abs(got.gates - wanted.gates).max() < 5e-5
    assert np.abs(got.candidate_probs - wanted.candidate_probs).max() < 1e-6
    assert got.model_sha256 == wanted.model_sha256


# --- one device and eight --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("tiny12", (1, 8)),  # fewer heads than devices: those are replicated
        ("tiny12", (4, 2)),
        ("shard8", (1, 8)),  # as many scale groups as devices
        ("shard8", (2, 4)),  # and more
        ("shard8", (8, 1)),
        ("shard8", (1, 2)),  # on two of the eight
    ],
)
def test_a_mesh_gives_the_numbers_of_one_device(name, mesh, model):
    wanted = model(name).generate(PROMPT, max_new_tokens=3).trace
    assert_same_numbers(model(name, mesh=mesh).generate(PROMPT, max_new_tokens=3).trace, wanted)


def test_float_weights_on_a_mesh_give_what_their_int8_original_gives(model, tmp_path):
    original = open_checkpoint(DATA / "shard8")
    tensors = {path: original.read(path) for path in original.paths}
    floats = {
        path: dequantize(tensor).astype(np.float32) if is_matrix(path) else tensor
        for path, tensor in tensors.items()
    }
    write_checkpoint(tmp_path / "floats", original.config, floats)
    sharded = grok.load(tmp_path / "floats", dtype="float32", mesh=(2, 4))
    wanted = model("shard8").generate(PROMPT, max_new_tokens=3).trace
    assert_same_numbers(sharded.generate(PROMPT, max_new_tokens=3).trace, wanted)


def test_by_default_all_devices_are_used(model):
    assert len(jax.devices()) == 8
    assert dict(make_mesh(model("tiny3").config).shape) == {"data": 1, "model": 8}
    assert dict(make_mesh(GROK_1).shape) == {"data": 1, "model": 8}


def test_on_a_mesh_too_decoding_compiles_one_program_for_all_steps(model):
    sharded = model("shard8", mesh=(2, 4))
    sharded.generate(PROMPT, max_new_tokens=3)
    before = passes.layer_pass._cache_size()
    sharded.generate([*PROMPT, 7, 7], max_new_tokens=9)  # of the same buckets
    assert passes.layer_pass._cache_size() == before


# --- what lies where ---------------------------------------------------------------------


def shares(array: jax.Array) -> set[tuple[int, ...]]:
    """Shapes of what the devices hold."""
    return {shard.data.shape for shard in array.addressable_shards}


@pytest.mark.parametrize(("mesh", "experts", "heads"), [((1, 8), 1, 8), ((2, 4), 2, 4)])
def test_every_device_holds_its_experts_heads_and_vocabulary_rows_alone(
    model, mesh, experts, heads
):
    """shard8: 8 experts of 128 x 344, 16 query and 8 key/value heads of 8, 512 embeddings."""
    sharded = model("shard8", mesh=mesh)
    layer = sharded.engine.layers.params[1]
    for name, shape in (("linear", (128, 344)), ("linear_v", (128, 344)), ("linear_1", (344, 128))):
        weight = layer[f"moe/{name}/w"]
        assert isinstance(weight, QuantizedWeight8bit)
        assert weight.weight.dtype == jnp.int8
        assert shares(weight.weight) == {(experts, *shape)}
        groups = weight.scales.shape[1]
        assert shares(weight.scales) == {(experts, groups, shape[1])}
    m = heads  # devices on the model axis
    assert shares(layer["multi_head_attention/query/w"].weight) == {(128, 128 // m)}
    assert shares(layer["multi_head_attention/key/w"].weight) == {(128, 64 // m)}
    assert shares(layer["multi_head_attention/value/w"].weight) == {(128, 64 // m)}
    assert shares(layer["multi_head_attention/linear/w"].weight) == {(128 // m, 128)}
    assert shares(sharded.engine.embed_unembed.outer[EMBEDDING]) == {(512 // m, 128)}
    assert shares(layer["router/w"]) == {(128, 8)}
    # Each expert lies on one column of the mesh: no two devices of a row share one.
    first = {s.device.id: s.index[0] for s in layer[MOE].weight.addressable_shards}
    rows = sharded.mesh.devices
    for row in rows:
        held = sorted(e for device in row for e in range(*first[device.id].indices(8)))
        assert held == list(range(8))


def test_what_does_not_divide_evenly_is_replicated(model):
    """tiny3 has 2 key/value heads, which 8 devices cannot share."""
    config, mesh = model("tiny3").config, make_mesh(model("tiny3").config, (1, 8))
    key = layer_path(0, ATTENTION + "key/w")
    assert partition(spec_at(config, key), expected_shape(config, key), mesh) == P()
    two = make_mesh(config, (4, 2))
    assert partition(spec_at(config, key), expected_shape(config, key), two) == P(None, "model")


def test_scale_groups_are_split_with_their_rows_or_kept_whole():
    """Grok-1 has 8 groups on the attention output: 8 or 4 devices split them, values too."""
    output = spec_at(GROK_1, layer_path(0, ATTENTION + "linear/w"))
    for shape, wanted in (((6144, 6144), P("model", None)), ((8, 6144), P("model", None))):
        assert partition(output, shape, make_mesh(GROK_1, (1, 8))) == wanted
        assert partition(output, shape, make_mesh(GROK_1, (2, 4))) == wanted
    query = spec_at(GROK_1, layer_path(0, ATTENTION + "query/w"))
    assert partition(query, (1, 6144), make_mesh(GROK_1, (1, 8))) == P(None, "model")


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((3, 4), "3 x 4 needs 12 devices; 8 are there"),
        ((0, 8), "0 x 8 needs 0 devices"),
        ((-1, -8), "-1 x -8"),
        ((1, 3), "8 experts cannot be split over 3 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(shape, says):
    with pytest.raises(DeviceError, match=says):
        make_mesh(GROK_1, shape)
    with pytest.raises(DeviceError, match=says):
        grok.load(DATA / "tiny3", mesh=shape)


# --- Grok-1 at full size, without its memory ----------------------------------------------


WHOLE = Grok1(GROK_1)


def test_a_layer_of_grok_1_has_the_right_shapes_and_dtypes_all_the_way():
    b, t, s = 2, 33, 64
    params = {spec.leaf: parameter(spec) for spec in WHOLE.layer_specs(63)}
    assert len(params) == 12
    kept = ("router.input", "attn.output", "moe.output")

    def layer(*args):
        hook = CompiledHook({}, kept, args[2], 8)
        return *WHOLE.decoder_layer(*args, hook=hook), hook.kept

    h, choice, cache, values = jax.eval_shape(
        layer,
        params,
        jax.ShapeDtypeStruct((b, t, 6144), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((b, s), jnp.bool_),
        jax.eval_shape(lambda: WHOLE.empty_cache(b, s, jnp.bfloat16)),
    )
    assert (h.shape, h.dtype) == ((b, t, 6144), jnp.float32)
    assert sorted(values) == sorted(kept)
    for array in values.values():
        assert (array.shape, array.dtype) == ((b, t, 6144), jnp.bfloat16)
    assert choice.logits.shape == choice.probs.shape == (b, t, 8)
    assert choice.experts.shape == choice.gates.shape == (b, t, 2)
    assert choice.experts.dtype == jnp.int32 and choice.gates.dtype == jnp.float32
    for array in cache:
        assert (array.shape, array.dtype) == ((b, s, 8, 128), jnp.bfloat16)


def test_embedding_and_logits_of_grok_1_have_the_right_shapes():
    outer = {spec.leaf: parameter(spec) for spec in WHOLE.outer_specs()}
    h = jax.eval_shape(
        lambda p, x: WHOLE.embed(p, x, jnp.bfloat16),
        outer,
        jax.ShapeDtypeStruct((1, 8192), jnp.int32),
    )
    assert (h.shape, h.dtype) == ((1, 8192, 6144), jnp.float32)
    logits = jax.eval_shape(lambda p, x: passes.logits_of(WHOLE, p, x, jnp.bfloat16), outer, h)
    assert (logits.shape, logits.dtype) == ((1, 8192, 131072), jnp.bfloat16)


# --- several processes ----------------------------------------------------------------------

PROCESS = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 1)
import grok
model = grok.load(sys.argv[1], dtype="float32")
assert jax.process_count() == 2 and len(jax.devices()) == 2, jax.devices()
assert dict(model.mesh.shape) == {"data": 1, "model": 2}, model.mesh
held = model.engine.layers.params[0]["moe/linear/w"].weight.addressable_shards
assert [shard.data.shape[0] for shard in held] == [4], held
generation = model.generate([int(x) for x in sys.argv[3].split(",")], max_new_tokens=3)
generation.trace.save(sys.argv[2])
"""


def test_two_processes_give_the_numbers_of_one(tiny3, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    prompt = PROMPT[:9].tolist()
    started = []
    for index in range(2):
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))},
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
        }
        command = [sys.executable, "-c", PROCESS, str(DATA / "tiny3")]
        command += [str(tmp_path / f"{index}.npz"), ",".join(map(str, prompt))]
        started.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        )
    try:
        errors = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], errors
    wanted = tiny3.generate(prompt, max_new_tokens=3).trace.arrays()
    for index in range(2):
        with np.load(tmp_path / f"{index}.npz", allow_pickle=False) as got:
            assert np.array_equal(got["tokens"], wanted["tokens"])
            assert np.array_equal(np.sort(got["experts"]), np.sort(wanted["experts"]))
            assert np.abs(got["router_logits"] - wanted["router_logits"]).max() < 5e-5
            assert np.abs(got["candidate_probs"] - wanted["candidate_probs"]).max() < 1e-6


def test_half_an_environment_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: pytest.fail("initialized"))
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(DeviceError, match="JAX_NUM_PROCESSES.*Set all three, or none"):
        initialize_distributed()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(DeviceError, match="not a number.*two"):
        initialize_distributed()


def test_without_the_environment_there_is_one_process(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    assert initialize_distributed() is False


def test_processors_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 9}, raising=False)
    assert processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert processors() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1
