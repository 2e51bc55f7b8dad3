"""Stored weights stay as they are stored until a product needs some of them as floats."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grok.architectures.moe import Experts, run_selected
from grok.architectures.products import ways_of
from grok.architectures.samples import sample
from grok.architectures.stretches import one, stretch
from grok.checkpoints.block_scales import Turned
from grok.engine.compiled import AS_WRITTEN

E, D, N, K = 24, 128, 4, 2
FLOATS = 4 * D**2
"""Bytes of one matrix as float32."""


@pytest.fixture
def compiled():
    """Programs as users compile them: tests/run leaves most optimisations out."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)

    def memory_of(run, *given):
        program = jax.jit(lambda *own: run(*own), compiler_options=AS_WRITTEN)
        return program.lower(*given).compile().memory_analysis()

    yield memory_of
    jax.config.update("jax_disable_most_optimizations", before)


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))


def shapes(tree, *lead):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((*lead, *a.shape), a.dtype), tree)


STORED = {"float16": Turned(np.zeros((D, D), np.float16))}
WAYS = [
    ("bfloat16 turned", "plain"),
    ("bfloat16 turned", "float32"),
    ("bfloat16", "bfloat16"),
    ("float16", "plain"),
    ("int8", "plain"),
    ("fp8", "float32"),
    ("mxfp4", "bfloat16"),
]


@pytest.mark.parametrize(("kind", "name"), WAYS)
def test_a_loop_makes_floats_of_one_matrix_at_a_time(kind, name, compiled):
    way = ways_of(kind)[name]

    def run(x, ids, weights):
        def add(i, out):
            own = jax.tree.map(lambda w: one(w, ids[i]), weights)
            return out + way(x, own, jnp.float32)

        return jax.lax.fori_loop(0, len(ids), add, jnp.zeros((N, D), jnp.float32))

    weights = shapes(STORED.get(kind) or sample(kind, D, D), E)
    memory = compiled(run, shape(N, D), shape(E, dtype="int32"), weights)
    assert memory.temp_size_in_bytes < 4 * FLOATS < E * FLOATS / 4


def test_a_layer_s_experts_are_made_floats_one_at_a_time(compiled):
    w = shapes(sample("bfloat16 turned", D, D), E)
    given = shape(N, D), shape(N, K, dtype="int32"), shape(N, K), Experts(w, w, w)
    memory = compiled(run_selected, *given)
    assert memory.temp_size_in_bytes < 3 * 3 * FLOATS < memory.argument_size_in_bytes


@pytest.mark.parametrize("name", ["float32", "sums"])
def test_a_large_table_is_made_floats_some_rows_at_a_time(name, compiled):
    table = shapes(Turned(np.zeros((8192, D), jnp.bfloat16)))
    way = partial(ways_of("bfloat16 turned")[name], dtype=jnp.float32)
    assert compiled(way, shape(1, D), table).temp_size_in_bytes < 2**19  # as floats it has 2**22


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_stretch_is_what_a_slice_is_bit_for_bit(dtype):
    values = np.random.default_rng(0).uniform(0, 200, (7, 3, 4)).astype(jnp.dtype(dtype))
    array = jnp.asarray(values)
    found = jax.lax.map(lambda i: (stretch(array, i, 2), one(array, i)), jnp.array([0, 4, 5]))
    wanted = np.stack([values[i : i + 2] for i in (0, 4, 5)]), values[[0, 4, 5]]
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == array.dtype and np.array_equal(got, want)
