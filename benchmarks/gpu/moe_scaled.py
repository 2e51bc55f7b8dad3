"""The chosen experts' products with the scale after the product, an option for GPUs.

`grok.architectures.moe.run_selected` multiplies int8 values by their scales and then takes the
product with the rows; where the compiler does not fuse the two, an expert's floats go through
memory, four to eight times its bytes. Here the product takes the int8 values in the rows' dtype,
exact in bfloat16, sums in float32, and is scaled afterwards, group by group of the contracted
axis. The hidden values are rounded to the rows' dtype before the last product, which
`run_selected` takes in float32.

So results differ from `run_selected` by roundings: of the order of 1e-6 of their size with float32
rows, 1e-2 with bfloat16 rows. Off by default; `python -m benchmarks gpu` measures both.

Axes: N token rows, K experts a token, E experts, D d_model, F d_ff, C rows of a block, G groups.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from grok.architectures.moe import Experts, block_rows, by_blocks
from grok.architectures.products import HIGHEST
from grok.architectures.stored_values import Weight
from grok.checkpoints.tensor_file import QuantizedWeight8bit


def run_scaled(
    x: jax.Array,
    experts: jax.Array,
    gates: jax.Array,
    weights: Experts,
    *,
    summed: bool = True,
    most_rows: int = 256,
) -> jax.Array:
    """As `run_selected` of `grok.architectures.moe`, in other roundings; a `Dispatch`.

    Args:
        most_rows: of a block. Fewer leave fewer rows empty; more read an expert less often.
    """
    n, k = experts.shape
    size = min(most_rows, block_rows(n * k, weights.activated.shape[0]))

    def run(rows: jax.Array, own: Experts) -> jax.Array:
        hidden = jax.nn.gelu(scaled_product(rows, own.activated), approximate=True)
        hidden = hidden * scaled_product(rows, own.linear)  # [C, F] float32
        return scaled_product(hidden.astype(x.dtype), own.down)

    return by_blocks(x, experts, gates, weights, run, (size,), summed=summed)


def scaled_product(x: jax.Array, weight: Weight) -> jax.Array:
    """x @ w, summed in float32 and then scaled. [C, rows] @ [rows, columns] -> [C, columns]."""
    if not isinstance(weight, QuantizedWeight8bit):
        return _product(x, weight.astype(x.dtype))
    scales = jnp.asarray(weight.scales, jnp.float32)  # [G, columns]
    values = jnp.asarray(weight.weight).astype(x.dtype)
    groups = scales.shape[0]
    if groups == 1:
        return _product(x, values) * scales
    parts = jnp.einsum(
        "cgr,grn->gcn",
        x.reshape(x.shape[0], groups, -1),
        values.reshape(groups, -1, values.shape[1]),
        precision=HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return jnp.sum(parts * scales[:, None, :], axis=0)


def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.dot(x, w, precision=HIGHEST, preferred_element_type=jnp.float32)
