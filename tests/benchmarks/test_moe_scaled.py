"""Scaling after the product gives what scaling before it gives, up to roundings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu.moe_scaled import run_scaled, scaled_product
from grok.architectures.moe import Experts, run_selected
from grok.architectures.stored_values import float_values
from grok.checkpoints.tensor_file import QuantizedWeight8bit

pytestmark = pytest.mark.benchmarks

N, D, F, E, K = 13, 32, 64, 5, 2
RNG = np.random.default_rng(4)


def quantized(*shape: int, groups: int, dtype: str) -> QuantizedWeight8bit:
    values = jnp.asarray(RNG.integers(-127, 128, shape), jnp.int8)
    scales = RNG.uniform(0.2, 2.0, (*shape[:-2], groups, shape[-1])) / (70 * shape[-2] ** 0.5)
    return QuantizedWeight8bit(values, jnp.asarray(scales, dtype))  # type: ignore[arg-type]


def weights(groups: int, scales: str = "bfloat16") -> Experts:
    return Experts(
        quantized(E, D, F, groups=1, dtype=scales),
        quantized(E, D, F, groups=1, dtype=scales),
        quantized(E, F, D, groups=groups, dtype=scales),
    )


def rows(dtype: str, n: int = N) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = jnp.asarray(RNG.standard_normal((n, D)), dtype)
    experts = np.stack([RNG.choice(E, K, replace=False) for _ in range(n)])
    gates = jnp.asarray(RNG.uniform(0.1, 0.6, (n, K)), jnp.float32)
    return x, jnp.asarray(experts, jnp.int32), gates


def apart(a: jax.Array, b: jax.Array) -> float:
    one, two = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(one - two) / np.linalg.norm(two))


@pytest.mark.parametrize("n", [1, N])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("groups", [1, 8])
def test_it_agrees_with_the_default_for_every_grouping(groups, dtype, tolerance, n):
    own = weights(groups, "float32" if dtype == "float32" else "bfloat16")
    given = rows(dtype, n)
    assert apart(run_scaled(*given, own), run_selected(*given, own)) < tolerance


@pytest.mark.parametrize("most_rows", [1, 2, 4])
def test_blocks_of_fewer_rows_change_nothing_but_roundings(most_rows: int):
    own, given = weights(8, "float32"), rows("float32")
    assert apart(run_scaled(*given, own, most_rows=most_rows), run_scaled(*given, own)) < 3e-6


def test_contributions_stand_apart_where_they_are_asked_for():
    own, given = weights(8, "float32"), rows("float32")
    parts = run_scaled(*given, own, summed=False)
    assert parts.shape == (N, K, D)
    np.testing.assert_allclose(parts.sum(axis=1), run_scaled(*given, own), rtol=1e-5, atol=1e-6)


def test_experts_outside_of_the_model_add_nothing():
    own, (x, experts, gates) = weights(8), rows("bfloat16")
    none = run_scaled(x, jnp.full_like(experts, E), gates, own)
    assert not np.asarray(none).any()


def test_float_weights_are_multiplied_as_they_are():
    own, given = weights(1, "float32"), rows("float32")
    floats = Experts(*(float_values(w, jnp.float32) for w in own))
    assert apart(run_scaled(*given, floats), run_selected(*given, floats)) < 3e-6


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_product_in_bfloat16_loses_only_the_rounding_of_the_rows(groups: int):
    """int8 values are exact in bfloat16, sums and scales are float32."""
    weight = quantized(F, D, groups=groups, dtype="float32")
    x = jnp.asarray(RNG.standard_normal((4, F)), jnp.bfloat16)
    exact = np.asarray(x, np.float64) @ np.asarray(float_values(weight, jnp.float32), np.float64)
    assert apart(scaled_product(x, weight), exact) < 1e-6


def test_each_group_has_its_own_scale():
    values = jnp.ones((4, 1), jnp.int8)
    weight = QuantizedWeight8bit(values, jnp.asarray([[1.0], [10.0]]))  # type: ignore[arg-type]
    x = jnp.asarray([[1.0, 2.0, 3.0, 4.0]])
    assert float(scaled_product(x, weight)[0, 0]) == 3.0 + 70.0
