"""The exponential tail holds its level where Pearson's curve through few draws did not."""

import numpy as np
import pytest

from lens.stats.exponential_tail import exponential_tail_p, pooled_tail_p, tail_size

TESTS = 40_000


@pytest.mark.parametrize("n_draws", [199, 999])
@pytest.mark.parametrize("level", [0.05, 0.01, 0.001])
def test_p_values_of_exponential_draws_hold_their_level(n_draws, level):
    rng = np.random.default_rng(0)
    few = TESTS if n_draws == 199 else TESTS // 4
    p = exponential_tail_p(rng.exponential(size=few), rng.exponential(size=(n_draws, few)))
    assert abs((p <= level).mean() / level - 1) < 5 / np.sqrt(level * few)


@pytest.mark.parametrize("level", [0.01, 0.001])
def test_p_values_of_lighter_tails_are_not_too_small(level):
    rng = np.random.default_rng(1)
    for draw in (rng.standard_normal, lambda size: rng.beta(2, 20, size)):
        p = exponential_tail_p(draw(TESTS), draw((199, TESTS)))
        assert (p <= level).mean() <= level * 1.15


def test_many_values_against_one_set_of_draws_agree_with_one_at_a_time():
    rng = np.random.default_rng(2)
    draws, values = rng.standard_normal(500), np.linspace(-3, 12, 40)
    alone = exponential_tail_p(values, np.repeat(draws[:, None], 40, axis=1))
    assert np.allclose(pooled_tail_p(values, draws), alone, rtol=1e-9)
    assert (np.diff(alone) <= 0).all() and 0 < alone.min() < 1e-6


def test_draws_without_a_tail_are_counted():
    assert pooled_tail_p(np.array([1.0, 2.0]), np.ones(99)).tolist() == [1.0, 0.01]
    assert np.isnan(exponential_tail_p(np.array([np.nan]), np.ones((99, 1))))[0]
    assert (tail_size(19), tail_size(999), tail_size(100_000)) == (10, 49, 100)
