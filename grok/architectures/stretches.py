"""Stretches of stored arrays, cut out inside a loop without the whole ever becoming floats."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def widened(array: jax.Array) -> bool:
    """Whether the compiler here makes floats of the array before it cuts it."""
    return array.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"


def stretch(array: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """`array[start : start + size]` in the dtype of the array, for loops over `start`.

    On processors the compiler cuts bfloat16 as float32, and moves the conversion of the whole
    array before the loop: twice its bytes. So its bits are cut out, which needs none, and the array
    is tied to `start`, so that nothing is made of the whole before the loop.
    """
    if not widened(array):
        return jax.lax.dynamic_slice_in_dim(array, start, size)
    array, start = jax.lax.optimization_barrier((array, start))
    bits = jax.lax.bitcast_convert_type(array, jnp.uint16)
    own = jax.lax.dynamic_slice_in_dim(bits, start, size)
    return jax.lax.bitcast_convert_type(own, array.dtype)


def one(stored: Any, index: jax.Array) -> Any:
    """`stored[index]`, likewise; of what is stored with scales, each array's. Scales are small, and
    on several devices tying them to `index` would cost more than they take."""
    if len(jax.tree.leaves(stored)) == 1:
        return jax.tree.map(lambda a: stretch(a, index, 1)[0], stored)
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, keepdims=False), stored)
