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

from grok.architectures.moe import Experts, block_rows, plan_blocks
from grok.architectures.products import HIGHEST, Weight
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
    n, d = x.shape
    k = experts.shape[1]
    n_experts = weights.activated.shape[0]
    rows = min(most_rows, block_rows(n * k, n_experts))
    plan = plan_blocks(experts, n_experts, rows)
    sorted_rows = jnp.concatenate([x, jnp.zeros((1, d), x.dtype)])[plan.token]  # [M * C, D]

    def one_block(i: jax.Array, out: jax.Array) -> jax.Array:
        def own(weight: Weight) -> Weight:
            return jax.tree.map(
                lambda a: jax.lax.dynamic_index_in_dim(a, plan.expert[i], keepdims=False), weight
            )

        block = jax.lax.dynamic_slice_in_dim(sorted_rows, i * rows, rows)  # [C, D]
        hidden = jax.nn.gelu(scaled_product(block, own(weights.activated)), approximate=True)
        hidden = hidden * scaled_product(block, own(weights.linear))  # [C, F] float32
        result = scaled_product(hidden.astype(x.dtype), own(weights.down))
        return jax.lax.dynamic_update_slice_in_dim(out, result, i * rows, axis=0)

    out = jnp.zeros((sorted_rows.shape[0], d), jnp.float32)
    out = jax.lax.fori_loop(0, plan.n_blocks, one_block, out)
    picked = out.at[plan.slot].get(mode="fill", fill_value=0).reshape(n, k, d)
    weighted = picked * gates.astype(x.dtype).astype(jnp.float32)[..., None]
    return jnp.sum(weighted, axis=1) if summed else weighted


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
