"""Cross entropy of a tied decoder, a block of tokens at a time.

Logits [N, V] of a batch are the largest array of a training step; made in
blocks and turned into the gradient at once they stay in the cache.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

BLOCK = 512


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def mean_cross_entropy(
    h: jax.Array, table: jax.Array, targets: jax.Array, multiplier: float
) -> jax.Array:
    """Mean over tokens of -log softmax(h @ table.T * multiplier)[target], in nats.

    Args:
        h: [N, D], the normed residual stream.
        table: [V, D], the embedding.
        targets: [N] ids.
        multiplier: on the logits.
    """
    return _with_gradients(h, table, targets, multiplier)[0]


def _with_gradients(
    h: jax.Array, table: jax.Array, targets: jax.Array, multiplier: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    n, d = h.shape
    rows = math.gcd(n, BLOCK)

    def block(
        d_table: jax.Array, part: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x, target = part
        logits = ((x @ table.T) * multiplier).astype(jnp.float32)  # [rows, V]
        largest = logits.max(axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = weights.sum(axis=-1, keepdims=True)
        chosen = jnp.take_along_axis(logits, target[:, None], axis=1)
        loss = (jnp.log(total) + largest - chosen).sum()
        d_logits = (weights / total).at[jnp.arange(rows), target].add(-1.0)
        d_logits = (d_logits * (multiplier / n)).astype(x.dtype)
        return d_table + d_logits.T @ x, (loss, d_logits @ table)

    parts = (h.reshape(-1, rows, d), targets.reshape(-1, rows))
    d_table, (losses, d_h) = jax.lax.scan(block, jnp.zeros_like(table), parts)
    return losses.sum() / n, (d_h.reshape(h.shape), d_table)


def _backward(
    multiplier: float, gradients: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    d_h, d_table = gradients
    return (d_h * g).astype(d_h.dtype), (d_table * g).astype(d_table.dtype), None


mean_cross_entropy.defvjp(_with_gradients, _backward)
