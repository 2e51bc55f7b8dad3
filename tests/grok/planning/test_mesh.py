"""Memory of a mesh's devices, planned from shapes: as placed, as compiled, and under 80 GB."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from grok.architectures.grok1 import Grok1
from grok.architectures.grok1_modules import Cache
from grok.config import GROK_1
from grok.engine import compiled as passes
from grok.engine.sharding import dispatch_over, make_mesh, memory_needed, partition
from grok.errors import DeviceError, GrokError
from grok.planning.mesh import mesh_plan, mesh_plans, parameter, working_bytes

TOKENS = 2048
RELEASE = 318_239_886_140  # bytes of all files
MESHES = [(1, 8), (2, 4), (4, 2), (8, 1)]


def test_of_the_meshes_of_eight_80_gb_devices_the_one_with_an_expert_each_holds_grok_1():
    fits = {plan.mesh: plan.fits() for plan in mesh_plans(Grok1(GROK_1))}
    assert fits == {(1, 8): True, (2, 4): False, (4, 2): False, (8, 1): False}
    assert mesh_plan(Grok1(GROK_1), (1, 8), TOKENS).total_bytes < 50e9
    # The weights alone would just go on four; keys, values and a pass no longer do.
    four = mesh_plan(Grok1(GROK_1), (2, 4), TOKENS)
    assert four.weights_bytes < 80e9 < four.total_bytes


def test_one_device_holds_the_values_of_all_released_files():
    """What the files have besides is a few hundred bytes each."""
    whole = mesh_plan(Grok1(GROK_1), (1, 1), 1).weights_bytes
    assert 0 < RELEASE - whole < 770 * 400
    assert whole == pytest.approx(memory_needed(Grok1(GROK_1)), rel=1e-3)  # which leaves out scales


@pytest.mark.parametrize("model", [8, 4, 2])
def test_only_routers_and_norms_are_on_every_device(model):
    replicated = 64 * 4 * (6144 * 8 + 4 * 6144) + 4 * 6144
    whole = mesh_plan(Grok1(GROK_1), (1, 1), 1).weights_bytes
    share = mesh_plan(Grok1(GROK_1), (8 // model, model), 1).weights_bytes
    assert model * share - whole == (model - 1) * replicated


def test_keys_and_values_take_two_vectors_a_head_a_token_and_a_layer():
    plan = mesh_plan(Grok1(GROK_1), (1, 8), TOKENS)
    assert plan.cache_bytes == 64 * TOKENS * 2 * 8 * 128 * 2
    assert plan.total_bytes == plan.weights_bytes + plan.cache_bytes + plan.working_bytes


@pytest.mark.parametrize("mesh", MESHES)
def test_devices_hold_the_planned_share_of_a_model_that_is_really_placed(mesh, model):
    """shard8 has the release's dtypes and groups of scales."""
    placed = model("shard8", mesh=mesh)
    held: dict[int, int] = {}
    for tensor in jax.tree.leaves((placed.engine.layers.params, placed.engine.layers.outer)):
        for shard in tensor.addressable_shards:
            held[shard.device.id] = held.get(shard.device.id, 0) + shard.data.nbytes
    planned = mesh_plan(placed.engine.architecture, mesh, 16).weights_bytes
    assert list(held.values()) == [planned] * 8


def on_mesh(spec, mesh):
    """The parameter's shape and dtype with its sharding."""

    def place(array):
        split = NamedSharding(mesh, partition(spec, array.shape, mesh))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=split)

    return jax.tree.map(place, parameter(spec))


@pytest.mark.parametrize("mesh_shape", [(1, 8), (2, 4)])
def test_a_full_size_layer_compiled_for_eight_devices_takes_what_is_planned(mesh_shape):
    """The compiler's own count of each device's memory; nothing of it is allocated."""
    mesh = make_mesh(GROK_1, mesh_shape)

    def whole(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P()))

    params = {spec.leaf: on_mesh(spec, mesh) for spec in Grok1(GROK_1).layer_specs(0)}
    stream = whole((1, TOKENS, 6144), jnp.float32)
    keys = whole((1, TOKENS, 8, 128), jnp.bfloat16)
    layer = passes.layer_pass.lower(
        Grok1(GROK_1),
        params,
        stream,
        whole((), jnp.int32),
        whole((1, TOKENS), jnp.bool_),
        Cache(keys, keys),
        dispatch_over(mesh),
        mesh,
    ).compile()
    outer = {spec.leaf: on_mesh(spec, mesh) for spec in Grok1(GROK_1).outer_specs()}
    head = passes.head_pass.lower(Grok1(GROK_1), outer, stream, 20, "bfloat16", mesh).compile()
    planned = mesh_plan(Grok1(GROK_1), mesh_shape, TOKENS)

    one = mesh_plan(Grok1(replace(GROK_1, n_layers=1)), mesh_shape, 1)
    ends_bytes = (131072 // mesh_shape[1] + 1) * 6144 * 4
    arguments = layer.memory_analysis().argument_size_in_bytes
    rest = TOKENS * 6144 * 4 + 2 * TOKENS * 8 * 128 * 2 + TOKENS + 4
    assert arguments == one.weights_bytes - ends_bytes + rest
    working = max(p.memory_analysis().temp_size_in_bytes for p in (layer, head))
    assert working == pytest.approx(planned.working_bytes, rel=0.25)
    assert (planned.weights_bytes + planned.cache_bytes + working < 80e9) == planned.fits()


def test_a_longer_prompt_takes_more_for_a_pass():
    sizes = [working_bytes(Grok1(GROK_1), tokens) for tokens in (1, 64, 2048, 8192)]
    assert all(shorter < longer for shorter, longer in itertools.pairwise(sizes))
    # Logits of 2,048 tokens as they are rounded and as probabilities need at least this much.
    assert sizes[2] > TOKENS * 131072 * (2 + 4)


@pytest.mark.parametrize(
    ("mesh", "says"),
    [((1, 3), "3 cannot hold"), ((0, 8), "0 x 8"), ((-1, -8), "-1 x -8"), ((1, 16), "1 x 16")],
)
def test_a_mesh_that_does_not_split_the_experts_is_refused(mesh, says):
    with pytest.raises(DeviceError, match=says):
        mesh_plan(Grok1(GROK_1), mesh)


@pytest.mark.parametrize("tokens", [0, -1, 8193])
def test_a_prompt_outside_the_context_is_refused(tokens):
    with pytest.raises(GrokError, match=f"number of tokens is {tokens}; expected 1 to 8192"):
        mesh_plan(Grok1(GROK_1), (1, 8), tokens)


def test_meshes_are_those_whose_columns_divide_the_experts():
    six = replace(GROK_1, n_experts=6)
    assert [plan.mesh for plan in mesh_plans(Grok1(six), 8, 64)] == [(4, 2), (8, 1)]
