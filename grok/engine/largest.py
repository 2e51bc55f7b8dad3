"""The largest of many values, such as a vocabulary's."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

STRETCH = 128
MANY = 8192  # values below which one search is as quick


def largest(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` largest [..., C] of values [..., V], of ties the first, and where they stand.

    As `jax.lax.top_k`, which on processors is slow along a long axis: here it goes through the
    largest of each stretch, then through the stretches that hold the largest of those.
    """
    n_values = values.shape[-1]
    width = math.gcd(n_values, STRETCH)
    if n_values < MANY or count > n_values // STRETCH or width < STRETCH:
        return jax.lax.top_k(values, count)
    # The values are there before they are searched; else they are computed for each step anew.
    stretches = jax.lax.optimization_barrier(values).reshape(*values.shape[:-1], -1, width)
    which = jnp.sort(jax.lax.top_k(jnp.max(stretches, axis=-1), count)[1], axis=-1)
    some = jnp.take_along_axis(stretches, which[..., None], axis=-2)  # [..., C, width]
    found, at = jax.lax.top_k(some.reshape(*values.shape[:-1], -1), count)
    return found, jnp.take_along_axis(which, at // width, axis=-1) * width + at % width
