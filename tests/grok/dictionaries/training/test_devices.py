"""Steps over eight devices and runs over two processes: the numbers of one device."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from grok.dictionaries.kinds.activations import activate
from grok.dictionaries.kinds.files import load_dictionary
from grok.dictionaries.kinds.normalising import measured
from grok.dictionaries.kinds.parameters import decoder_norms, encode
from grok.dictionaries.kinds.selection import largest, largest_of_groups
from grok.dictionaries.training.devices import on_devices, open_mesh
from grok.dictionaries.training.losses import Batch
from grok.dictionaries.training.run import train
from grok.dictionaries.training.settings import Settings, settings_of
from grok.dictionaries.training.step import begun, make_dense_step
from grok.dictionaries.training.update import constants_of
from grok.errors import DeviceError
from tests.grok.dictionaries.kinds.test_activations import sorted_masks
from tests.grok.dictionaries.training.given_run import given_run
from tests.grok.dictionaries.training.test_steps import design_of

ROOT = Path(__file__).resolve().parents[4]
MESHES = ((1, 8), (2, 4), (8, 1))
F, B, D = 24, 64, 5


@cache
def mesh_of(shape: tuple[int, int]) -> Mesh:
    found = open_mesh(shape, F, B)
    assert found is not None and dict(found.shape) == {"data": shape[0], "model": shape[1]}
    return found


@pytest.mark.parametrize("shape", MESHES)
def test_the_largest_are_those_of_one_device_and_so_are_ties(shape):
    rng = np.random.default_rng(0)
    of_batch = jax.jit(lambda values, count: largest(values, count, mesh=mesh_of(shape))[0])
    of_tokens = jax.jit(lambda values: largest_of_groups(values, 13, mesh_of(shape)))
    for digits, count in ((9, 200), (1, 301), (0, 150), (0, 700), (0, 0)):
        values = [np.round(rng.standard_normal((16, F)), digits).astype("f4") for _ in range(2)]
        for own, right in zip(of_batch(values, count), sorted_masks(values, count), strict=True):
            np.testing.assert_array_equal(own, right)
        both = np.concatenate(values, axis=1)
        right = np.concatenate([sorted_masks([row], 13)[0][None] for row in both])
        np.testing.assert_array_equal(np.concatenate(of_tokens(values), axis=1), right)


def settings_for(function: str) -> Settings:
    both = function == "batch_topk"
    own = {"kind": "clt", "reads": ["router.input"], "writes": ["moe.normed"], "layers": [0, 1]}
    own = own if both else {"kind": "sae", "reads": ["resid_mid"], "layers": [0]}
    return settings_of(
        {
            "dictionary": {**own, "features": F},
            "activation": {"function": function, "k": 3, "pooled": both, "gate_by_norm": True},
            "loss": {"auxiliary": 0.03 * both, "auxiliary_k": 4},
            "training": {"tokens": B * 12, "batch": B, "dead_window": B, "k_start": 6.0},
        }
    )


@partial(jax.jit, static_argnames=("settings", "mesh"))
def active(settings, params, x, mesh):
    pre = encode(design_of(settings), params, x)
    rule = settings.activation
    found = activate(rule, pre, decoder_norms(params), None, budget=rule.k, mesh=mesh)
    return [f > 0 for f in found.features]


@cache
def on_one(function: str):
    """A batch, the state before a run's steps, and what three of them give on one device."""
    settings, rng = settings_for(function), np.random.default_rng(3)
    x = rng.standard_normal((len(settings.dictionary.layers), B, D)).astype(np.float32)
    batch = Batch(x, np.tanh(x[:, :, ::-1] + 1))
    constants = constants_of(*(measured(values, "centred") for values in batch[:2]))
    state = begun(design_of(settings), settings, constants, batch)
    bias = state.params["encoder_bias"].at[:, :5].add(-3.0)  # these are dead in time
    state = jax.device_get(state._replace(params=state.params | {"encoder_bias": bias}))
    return batch, constants, state, stepped(settings, batch, constants, state, None)


def stepped(settings, batch, constants, state, mesh):
    step = make_dense_step(design_of(settings), settings, mesh)
    state, constants = on_devices(state, mesh), on_devices(constants, mesh)
    state = jax.tree.map(jax.numpy.copy, state)
    found = []
    for i in range(3):
        own = jax.tree.map(lambda values, i=i: np.roll(values, i, axis=1), batch)
        placed = on_devices(own, mesh)
        sets = active(settings, state.params, placed.x, mesh)
        state, parts = step(state, placed, constants)
        found.append(jax.device_get((sets, parts)))
    return state, found


@pytest.mark.parametrize("function", ["topk", "batch_topk"])
@pytest.mark.parametrize("shape", MESHES)
def test_steps_on_a_mesh_are_those_of_one_device(shape, function):
    settings, mesh = settings_for(function), mesh_of(shape)
    batch, constants, start, (one, alone) = on_one(function)
    state, together = stepped(settings, batch, constants, start, mesh)
    for (sets, parts), (right, numbers) in zip(together, alone, strict=True):
        np.testing.assert_array_equal(sets, right)
        np.testing.assert_array_equal(parts.fired, numbers.fired)
        np.testing.assert_allclose(parts.error, numbers.error, atol=1e-6)
        np.testing.assert_allclose(parts.auxiliary, numbers.auxiliary, atol=1e-6)
    assert (alone[-1][1].auxiliary > 0) == (function == "batch_topk")
    held = state.params["encoder"][0].addressable_shards
    assert {shard.data.shape for shard in held} == {(1, D, F // shape[1])}
    moments = [one for one in jax.tree.leaves(state.optimiser) if one.shape[0::2] == (F, D)]
    assert {m.addressable_shards[0].data.shape[0] for m in moments} == {F // shape[1]}
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    np.testing.assert_array_equal(state.idle, one.idle)


def test_a_mesh_that_cannot_split_the_run_is_refused():
    assert open_mesh(None, F, B) is None and open_mesh((1, 1), F, B) is None
    for shape, said in (
        ((0, 2), "two numbers of 1 or more"),
        ((3, 1), "64 tokens of a batch do not divide among 3 devices"),
        ((1, 5), "24 features of a group do not divide among 5 devices"),
        ((8, 2), "needs 16 devices; 8 are there"),
    ):
        with pytest.raises(DeviceError, match=said):
            open_mesh(shape, F, B)


def test_two_processes_train_the_dictionary_of_one_and_one_goes_on_with_it(tmp_path, capfd):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "tests.grok.dictionaries.training.given_run"]
    command += [str(tmp_path / "two"), "1,2"]
    started = []
    for index in range(2):
        environment = os.environ | {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
        }
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )  # fmt: skip
        )
    try:
        said = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    assert "step      6 of 6" in said[0][0] and "step" not in said[1][0]
    one = train(given_run(tmp_path / "one"))
    others = [load_dictionary(tmp_path / "two")]
    (tmp_path / "two").rename(tmp_path / "whole")
    others.append(train(given_run(tmp_path / "two"), resume=True))  # a checkpoint knows no mesh
    assert "from step 6 of 6" in capfd.readouterr().err
    for other in others:
        for name in ("encoder", "decoder", "threshold"):
            for a, b in zip(one.params[name], other.params[name], strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4, err_msg=name)
        losses = [found.facts["trained"]["loss"] for found in (one, other)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
