"""Exact choice of the largest values of a batch, without sorting them.

The n largest of millions of values are those at or above some number t. Positive floats are in the
order of their bits, so t is found among whole numbers by counting how many values reach it: a
bracket that shrinks by interpolation, and by halves every third time. Counts of parts that lie on
several devices add up, so nothing else has to be gathered.

On a ("data", "model") mesh tokens are split along the first axis and features along the second;
what is chosen is the same as on one device, ties too.

Axes: B tokens, F features, b and f those of one device; values come as one array [B, F] a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

INFINITY_BITS = 0x7F800000
# The smallest float that XLA does not take for 0; what is below counts as not positive.
SMALLEST_BITS = 0x00800000
SPLIT = P("data", "model")


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
    values: Sequence[jax.Array],
    count: jax.Array,
    guess: jax.Array | float = 1.0,
    axes: tuple[str, ...] = (),
) -> tuple[jax.Array, jax.Array]:
    """A number that exactly `count` positive values reach, where there are so many and no ties.

    Args:
        values: [B, F] float32 of each group.
        count: values to keep.
        guess: where to look first, such as the threshold of the step before.
        axes: of the mesh over which values are split, inside a program of each device.

    Returns:
        The threshold as bits, and how many values reach it: more than `count` where several
        equal the last one kept, fewer where fewer are positive.
    """

    def reach(at: jax.Array) -> jax.Array:
        # Compared as floats: one pass over each array, nothing written.
        level = jax.lax.bitcast_convert_type(at, jnp.float32)
        n = sum((jnp.sum(one >= level, dtype=jnp.int32) for one in values), start=jnp.int32(0))
        return _everywhere(n, axes)

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


def _everywhere(count: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """A count over all devices."""
    return jax.lax.psum(count, axes) if axes else count


def largest(
    values: Sequence[jax.Array],
    count: jax.Array,
    guess: jax.Array | float = 1.0,
    mesh: Mesh | None = None,
) -> tuple[list[jax.Array], jax.Array]:
    """Which values are the `count` largest positive ones of all, [B, F] bool of each group.

    Of equal ones the first in the order group, token, feature are kept.

    Args:
        values: [B, F] float32 of each group.
        count: values to keep.
        guess: see `threshold_of`.
        mesh: over which tokens and features are split; None on one device.

    Returns:
        The masks, and the threshold as a float.
    """
    given = list(values), jnp.asarray(count, jnp.int32), jnp.asarray(guess, jnp.float32)
    if mesh is None:
        return _largest(*given, ())
    split = [SPLIT] * len(given[0])
    own = partial(_largest, axes=("data", "model"))
    found: tuple[list[jax.Array], jax.Array] = jax.shard_map(
        own, mesh=mesh, in_specs=(split, P(), P()), out_specs=(split, P())
    )(*given)
    return found


def _largest(
    values: list[jax.Array], count: jax.Array, guess: jax.Array, axes: tuple[str, ...]
) -> tuple[list[jax.Array], jax.Array]:
    low, n_low = threshold_of(values, count, guess, axes)
    level = jax.lax.bitcast_convert_type(low, jnp.float32)

    def plain() -> list[jax.Array]:
        return [one >= level for one in values]

    def of_ties() -> list[jax.Array]:
        above = sum((jnp.sum(one > level, dtype=jnp.int32) for one in values), jnp.int32(0))
        left, kept = count - _everywhere(above, axes), []
        for one in values:
            ties = one == level
            kept.append((one > level) | (ties & (_places(ties, axes) <= left)))
            left = left - _everywhere(jnp.sum(ties, dtype=jnp.int32), axes)
        return kept

    masks = jax.lax.cond(n_low > count, of_ties, plain)
    return masks, level


def _places(marked: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Which of the marked ones each is, from 1, in the order token, feature; [b, f] of a device."""
    if not axes:
        return jnp.cumsum(marked.ravel(), dtype=jnp.int32).reshape(marked.shape)
    parts = jax.lax.all_gather(jnp.sum(marked, axis=1, dtype=jnp.int32), "model")  # [devices, b]
    of_tokens = jnp.sum(parts, axis=0)
    sums = jax.lax.all_gather(jnp.sum(of_tokens), "data")
    before = jnp.sum(jnp.where(_earlier(sums, "data"), sums, 0))
    before += jnp.cumsum(of_tokens) - of_tokens
    before += jnp.sum(jnp.where(_earlier(parts, "model")[:, None], parts, 0), axis=0)
    return before[:, None] + jnp.cumsum(marked, axis=1, dtype=jnp.int32)


def _earlier(parts: jax.Array, axis: str) -> jax.Array:
    """Which parts belong to devices that come before this one on an axis."""
    return jnp.arange(len(parts)) < jax.lax.axis_index(axis)


def largest_of_tokens(values: jax.Array, k: int) -> jax.Array:
    """Which values [B, F] are among the `k` largest positive ones of their token."""
    _, indexes = jax.lax.top_k(values, min(k, values.shape[-1]))
    rows = jnp.arange(values.shape[0])[:, None]
    chosen = jnp.zeros(values.shape, bool).at[rows, indexes].set(True)
    return chosen & (values > 0)


def largest_of_groups(
    values: Sequence[jax.Array], k: int, mesh: Mesh | None = None
) -> list[jax.Array]:
    """Which values are among the `k` largest positive ones of their token in all groups together.

    Of equal ones the first in the order group, feature are kept.

    Args:
        values: [B, F] float32 of each group.
        k: values of a token to keep.
        mesh: over which tokens and features are split; None on one device.
    """
    if mesh is None:
        mask = largest_of_tokens(jnp.concatenate(values, axis=1), k)
        return jnp.split(mask, len(values), axis=1)
    split = [SPLIT] * len(values)
    found: list[jax.Array] = jax.shard_map(
        partial(_largest_of_groups, k=k), mesh=mesh, in_specs=(split,), out_specs=split
    )(list(values))
    return found


def _largest_of_groups(values: list[jax.Array], k: int) -> list[jax.Array]:
    """Each device names its `k` largest of a token, and all choose among those."""
    own, f = jnp.concatenate(values, axis=1), values[0].shape[1]
    at = jnp.arange(own.shape[1], dtype=jnp.int32)
    first = (at // f * jax.lax.axis_size("model") + jax.lax.axis_index("model")) * f
    place = first + at % f  # in the order group, feature, of all devices
    found, where = jax.lax.top_k(own, min(k, own.shape[1]))
    gather = partial(jax.lax.all_gather, axis_name="model", axis=1, tiled=True)
    named = gather(-found), gather(place[where])
    ordered, places = jax.lax.sort(named, dimension=1, num_keys=2)
    last = min(k, ordered.shape[1]) - 1
    least, end = -ordered[:, last, None], places[:, last, None]
    mask = (own > least) | ((own == least) & (place <= end))
    return jnp.split(mask & (own > 0), len(values), axis=1)
