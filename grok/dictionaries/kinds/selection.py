"""Exact choice of the largest values of a batch, without sorting them.

The n largest of millions of values are those at or above some number t. Positive floats are in the
order of their bits, so t is found among whole numbers by counting how many values reach it: a
bracket that shrinks by interpolation, and by halves every third time. Counts of parts that lie on
several devices add up, so nothing else has to be gathered.

Axes: B tokens, F features; values come as one array [B, F] a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

INFINITY_BITS = 0x7F800000
# The smallest float that XLA does not take for 0; what is below counts as not positive.
SMALLEST_BITS = 0x00800000


class _Bracket(NamedTuple):
    """Bits between which the threshold lies: `n_low` values reach `low`, `n_high` reach `high`."""

    low: jax.Array
    high: jax.Array
    n_low: jax.Array
    n_high: jax.Array
    turn: jax.Array


def bits(values: jax.Array) -> jax.Array:
    """Whole numbers in the order of the values; 0 for all that are not positive."""
    return jax.lax.bitcast_convert_type(jnp.maximum(values, 0.0), jnp.int32)


def threshold_of(
    values: Sequence[jax.Array], count: jax.Array, guess: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """A number that exactly `count` positive values reach, where there are so many and no ties.

    Args:
        values: [B, F] float32 of each group.
        count: values to keep.
        guess: where to look first, such as the threshold of the step before.

    Returns:
        The threshold as bits, and how many values reach it: more than `count` where several
        equal the last one kept, fewer where fewer are positive.
    """

    def reach(at: jax.Array) -> jax.Array:
        # Compared as floats: one pass over each array, nothing written.
        level = jax.lax.bitcast_convert_type(at, jnp.float32)
        return sum((jnp.sum(one >= level, dtype=jnp.int32) for one in values), start=jnp.int32(0))

    def step(b: _Bracket) -> _Bracket:
        width = b.high - b.low
        share = (b.n_low - count) / jnp.maximum(b.n_low - b.n_high, 1)
        between = b.low + (width.astype(jnp.float32) * share).astype(jnp.int32)
        near = jnp.where(b.n_low > count, b.low + (1 << 20), b.high - (1 << 20))
        mid = jnp.where(b.turn % 3 == 2, b.low + width // 2, between)
        mid = jnp.where(b.turn == 0, bits(jnp.asarray(guess, jnp.float32)), mid)
        mid = jnp.where(
            (b.turn == 1) & (b.low == bottom) | (b.turn == 1) & (b.high == top), near, mid
        )
        mid = jnp.clip(mid, b.low + 1, b.high - 1)
        n = reach(mid)
        enough = n >= count
        return _Bracket(
            jnp.where(enough, mid, b.low),
            jnp.where(enough, b.high, mid),
            jnp.where(enough, n, b.n_low),
            jnp.where(enough, b.n_high, n),
            b.turn + 1,
        )

    count = jnp.asarray(count, jnp.int32)
    bottom, top = jnp.int32(SMALLEST_BITS), jnp.int32(INFINITY_BITS)
    first = _Bracket(bottom, top, reach(bottom), jnp.int32(0), jnp.int32(0))
    found = jax.lax.while_loop(lambda b: (b.n_low > count) & (b.high - b.low > 1), step, first)
    return found.low, found.n_low


def largest(
    values: Sequence[jax.Array], count: jax.Array, guess: jax.Array | float = 1.0
) -> tuple[list[jax.Array], jax.Array]:
    """Which values are the `count` largest positive ones of all, [B, F] bool of each group.

    Of equal ones the first in the order group, token, feature are kept.

    Returns:
        The masks, and the threshold as a float.
    """
    low, n_low = threshold_of(values, count, guess)
    level = jax.lax.bitcast_convert_type(low, jnp.float32)

    def plain() -> list[jax.Array]:
        return [one >= level for one in values]

    def of_ties() -> list[jax.Array]:
        above = sum(jnp.sum(one > level, dtype=jnp.int32) for one in values)
        left, kept = count - above, []
        for one in values:
            ties = (one == level).ravel()
            first = jnp.cumsum(ties, dtype=jnp.int32) <= left
            kept.append((one > level) | (ties & first).reshape(one.shape))
            left = left - jnp.sum(ties, dtype=jnp.int32)
        return kept

    masks = jax.lax.cond(n_low > count, of_ties, plain)
    return masks, level


def largest_of_tokens(values: jax.Array, k: int) -> jax.Array:
    """Which values [B, F] are among the `k` largest positive ones of their token."""
    _, indexes = jax.lax.top_k(values, min(k, values.shape[-1]))
    rows = jnp.arange(values.shape[0])[:, None]
    chosen = jnp.zeros(values.shape, bool).at[rows, indexes].set(True)
    return chosen & (values > 0)
