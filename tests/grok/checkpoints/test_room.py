"""Weights are read where they stay: no second copy of a layer, none for the devices."""

from __future__ import annotations

import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from grok.architectures.products import product
from grok.checkpoints.block_scales import Turned
from grok.checkpoints.room import LARGE_PAGE, room
from grok.checkpoints.safetensors_folder import SafetensorsFolder
from grok.checkpoints.tensor_spec import TensorSpec, read_parameter
from grok.errors import CheckpointError

N, SHAPE = 20, (256, 256)
NAMES = tuple(f"expert{i}" for i in range(N))


def folder_of(tmp_path, arrays):
    save_file(arrays, tmp_path / "model.safetensors")
    return SafetensorsFolder(tmp_path, None, list(arrays))


def matrices(dtype):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(SHAPE).astype(dtype) for name in NAMES}


def spec(**more):
    return TensorSpec("w", (N, *SHAPE), NAMES, per_expert=True, **more)


def test_devices_hold_a_large_array_where_it_was_read():
    values = room((LARGE_PAGE // 4,), np.float32)
    values[:] = 3
    held = jax.device_put(values, jax.devices("cpu")[0])
    assert held.unsafe_buffer_pointer() == values.ctypes.data
    assert room((2, 3), np.int8).shape == (2, 3)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_experts_are_put_side_by_side_as_they_are_stored(tmp_path, dtype):
    arrays = matrices(dtype)
    checkpoint = folder_of(tmp_path, arrays)
    read_parameter(checkpoint, TensorSpec("one", SHAPE, NAMES[:1]))  # opens the file
    tracemalloc.start()
    found = read_parameter(checkpoint, spec())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.dtype == dtype and np.array_equal(found, np.stack(list(arrays.values())))
    assert found.nbytes >= LARGE_PAGE and peak < N / 2 * arrays[NAMES[0]].nbytes


def test_an_expert_of_a_wider_dtype_loses_nothing(tmp_path):
    arrays = matrices(ml_dtypes.bfloat16)
    arrays[NAMES[5]] = np.full(SHAPE, 1 / 3, np.float32)
    found = read_parameter(folder_of(tmp_path, arrays), spec())
    assert found.dtype == np.float32 and np.array_equal(found[5], arrays[NAMES[5]])
    assert np.array_equal(found[4], arrays[NAMES[4]].astype(np.float32))


def test_a_file_that_was_cut_while_it_was_read_is_refused(tmp_path):
    checkpoint = folder_of(tmp_path, matrices(np.float16))
    checkpoint.read(NAMES[0])
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="bytes at .*expected a file of .*try again"):
        read_parameter(checkpoint, spec())


@pytest.mark.parametrize("rows", [np.float32, ml_dtypes.bfloat16])
def test_float16_weights_give_the_products_of_their_values(rows):
    values = np.random.default_rng(1).standard_normal((9, 16)).astype(np.float16)
    x = jnp.asarray(np.ones((2, 16)), rows)
    for dtype in (None, rows):
        found = product(x, Turned(jnp.asarray(values)), dtype)
        wanted = product(x, Turned(jnp.asarray(values.astype(np.float32))), dtype)
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted)
