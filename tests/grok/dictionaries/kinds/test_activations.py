"""Activation functions, their gradients, and the choice of the largest."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grok.dictionaries.kinds.activations import activate, jumprelu, step
from grok.dictionaries.kinds.design import Activation
from grok.dictionaries.kinds.selection import largest, largest_of_tokens

# Below, just below, just above and far above a threshold of 1 with a width of 0.5.
X = jnp.array([[-0.5], [0.76], [0.74], [1.0], [1.2], [1.3]])
THETA, WIDTH = jnp.array([1.0]), 0.5


def test_jumprelu_has_the_gradients_of_its_definition():
    np.testing.assert_allclose(jumprelu(X, THETA, WIDTH)[:, 0], [0, 0, 0, 0, 1.2, 1.3])
    given = jnp.arange(1.0, 7.0)[:, None]
    _, back = jax.vjp(lambda x, theta: jumprelu(x, theta, WIDTH), X, THETA)
    to_x, to_theta = back(given)
    np.testing.assert_array_equal(to_x[:, 0], [0, 0, 0, 0, 5, 6])
    # The rectangle holds 0.76, 1.0 and 1.2: -(θ/ε)(2 + 4 + 5).
    np.testing.assert_allclose(to_theta, [-(1.0 / 0.5) * 11])


def test_a_step_moves_its_threshold_alone():
    np.testing.assert_array_equal(step(X, THETA, WIDTH)[:, 0], [0, 0, 0, 0, 1, 1])
    given = jnp.arange(1.0, 7.0)[:, None]
    _, back = jax.vjp(lambda x, theta: step(x, theta, WIDTH), X, THETA)
    to_x, to_theta = back(given)
    assert not np.asarray(to_x).any()
    np.testing.assert_allclose(to_theta, [-(1 / 0.5) * 11])


def sorted_masks(values: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The largest positive values by sorting; of equal ones the first."""
    flat = np.concatenate([one.ravel() for one in values])
    order = np.argsort(-flat, kind="stable")[:count]
    kept = np.zeros(flat.size, bool)
    kept[order] = flat[order] > 0
    ends = np.cumsum([one.size for one in values])[:-1]
    return [m.reshape(v.shape) for m, v in zip(np.split(kept, ends), values, strict=True)]


FOUND = jax.jit(lambda values, count, guess: largest(values, count, guess)[0])


@pytest.mark.parametrize("count", [0, 1, 37, 300, 599, 600])
@pytest.mark.parametrize("guess", [1.0, 1e-30, 1e30])
def test_the_largest_of_a_batch_are_those_that_sorting_finds(count, guess):
    rng = np.random.default_rng(count)
    values = [rng.standard_normal((10, 30)).astype(np.float32) for _ in range(2)]
    values[1][:4] = np.round(values[1][:4], 1)  # ties
    values[0][3] = 1.2e-38  # and the smallest floats
    found = FOUND(values, count, guess)
    for own, right in zip(found, sorted_masks(values, count), strict=True):
        np.testing.assert_array_equal(own, right)


def test_of_equal_values_the_first_are_kept():
    values = [np.full((3, 4), 2.0, np.float32), np.full((2, 4), 2.0, np.float32)]
    found = FOUND(values, 14, 1.0)
    assert [int(one.sum()) for one in found] == [12, 2]
    np.testing.assert_array_equal(found[1][0], [True, True, False, False])


def test_topk_keeps_k_of_each_token_and_nothing_negative():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 20)).astype(np.float32)
    mask = np.asarray(largest_of_tokens(jnp.asarray(values), 14))
    right = np.zeros_like(mask)
    np.put_along_axis(right, np.argsort(-values, axis=1)[:, :14], True, axis=1)
    np.testing.assert_array_equal(mask, right & (values > 0))


def test_gates_decide_who_is_active_and_not_how_strongly():
    pre = [jnp.array([[1.0, 0.6, 0.1]])]
    gates = [jnp.array([0.1, 1.0, 1.0])]
    plain = activate(Activation("topk", 1), pre, None, None).features[0]
    gated = activate(Activation("topk", 1), pre, gates, None).features[0]
    np.testing.assert_allclose(plain, [[1.0, 0, 0]])
    np.testing.assert_allclose(gated, [[0, 0.6, 0]], rtol=1e-6)


def test_a_pooled_budget_goes_where_the_values_are():
    pre = [jnp.array([[5.0, 4.0, 3.0]]), jnp.array([[0.3, 0.2, 0.1]])]
    pooled = activate(Activation("batch_topk", 1, pooled=True), pre, None, None)
    apart = activate(Activation("batch_topk", 1), pre, None, None)
    assert [int((f > 0).sum()) for f in pooled.features] == [2, 0]
    assert [int((f > 0).sum()) for f in apart.features] == [1, 1]
