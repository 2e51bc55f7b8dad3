"""Stretches of stored arrays, cut out inside a loop without the whole ever becoming floats."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def stretch(array: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """`array[start : start + size]` in the dtype of the array, for loops over `start`.

    On processors the compiler cuts bfloat16 as float32, and moves the conversion of the whole
    array before the loop: twice its bytes. So its bits are cut out, which needs none, and the array
    is tied to `start`, so that nothing is made of the whole before the loop.
    """
    if array.dtype != jnp.bfloat16 or jax.default_backend() != "cpu":
        return jax.lax.dynamic_slice_in_dim(array, start, size)
    array, start = jax.lax.optimization_barrier((array, start))
    bits = jax.lax.bitcast_convert_type(array, jnp.uint16)
    own = jax.lax.dynamic_slice_in_dim(bits, start, size)
    return jax.lax.bitcast_convert_type(own, array.dtype)


def one(array: jax.Array, index: jax.Array) -> jax.Array:
    """`array[index]`, likewise."""
    return stretch(array, index, 1)[0]
