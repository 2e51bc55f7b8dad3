"""What weights are as floats: each stored form's values times their scales.

Axes: K contracting axis, N columns.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from grok.checkpoints.block_scales import SCALE_BIAS, BlockScaled, MicroScaled, Turned
from grok.checkpoints.tensor_file import QuantizedWeight8bit

jax.tree_util.register_dataclass(QuantizedWeight8bit, ["weight", "scales"], [])
jax.tree_util.register_dataclass(BlockScaled, ["weight", "scales"], ["block"])
jax.tree_util.register_dataclass(MicroScaled, ["blocks", "scales"], [])
jax.tree_util.register_dataclass(Turned, ["values"], [])

Weight = Any  # jax.Array, or a quantized or turned weight of jax arrays
F32 = jnp.float32


def float_values(weight: Weight, activation: Any) -> jax.Array:
    """The weight as floats [..., K, N]: stored values times the scale of their group or block.

    int8 values: computed in the wider of the dtypes of the scales and of the activations, so
    bfloat16 scales round the product under bfloat16 activations only. 8- and 4-bit floats:
    float32, which holds all products of the latter.
    """
    if isinstance(weight, Turned):
        return jnp.swapaxes(float_values(weight.values, activation), -1, -2)
    if isinstance(weight, BlockScaled):
        return unblocked(weight.weight, weight.scales, weight.block)
    if isinstance(weight, MicroScaled):
        low, high = halves(weight.blocks, weight.scales)
        both = jnp.stack([low, high], axis=-1)  # [..., N, K / 2, 2]
        return jnp.swapaxes(both.reshape(*both.shape[:-2], -1), -1, -2)
    if not isinstance(weight, QuantizedWeight8bit):
        return weight
    values = weight.weight
    scales = weight.scales.astype(jnp.promote_types(weight.scales.dtype, activation))
    *lead, rows, columns = values.shape
    groups = scales.shape[-2]
    grouped = values.astype(scales.dtype).reshape(*lead, groups, rows // groups, columns)
    return (grouped * scales[..., :, None, :]).reshape(values.shape)


def eight_bits(codes: Any) -> jax.Array:
    """float32 of float8_e4m3fn: its bits, moved to where a float16 has them, times 256."""
    wide = jnp.asarray(codes).astype(jnp.uint16)
    moved = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
    return jax.lax.bitcast_convert_type(moved, jnp.float16).astype(F32) * 256


def _four_bits(codes: Any) -> jax.Array:
    """float32 of 4-bit floats, likewise."""
    wide = jnp.asarray(codes).astype(jnp.uint16)
    moved = ((wide & 8) << 12) | ((wide & 7) << 9)
    return jax.lax.bitcast_convert_type(moved, jnp.float16).astype(F32) * 2**14


def unblocked(codes: Any, scales: Any, block: tuple[int, int]) -> jax.Array:
    """Every value times the scale of its block, float32."""
    rows, columns = codes.shape[-2:]
    scales = jnp.repeat(scales, block[0], axis=-2)[..., :rows, :]
    return eight_bits(codes) * jnp.repeat(scales, block[1], axis=-1)[..., :columns]


def halves(blocks: Any, scales: Any) -> tuple[jax.Array, jax.Array]:
    """Values at even and at odd K, [..., N, K / 2] float32 each."""
    powers = jnp.ldexp(F32(1), jnp.asarray(scales).astype(jnp.int32) - SCALE_BIAS)[..., None]
    shape = (*blocks.shape[:-2], -1)
    return tuple((_four_bits(b) * powers).reshape(shape) for b in (blocks & 15, blocks >> 4))  # type: ignore[return-value]


def value_dtype(w: Weight, activation: Any) -> Any:
    """The dtype of the weight's values where rows have the dtype `activation`."""
    if isinstance(w, QuantizedWeight8bit):
        return jnp.promote_types(w.scales.dtype, activation)
    if isinstance(w, Turned) and not isinstance(w.values, BlockScaled):
        return w.values.dtype
    return F32 if isinstance(w, BlockScaled | MicroScaled | Turned) else w.dtype
