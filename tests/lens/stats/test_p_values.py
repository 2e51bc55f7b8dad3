"""p-values from draws, and their adjustment for many."""

import numpy as np
import pytest
from scipy.stats import kstest

from lens.stats.p_values import benjamini_hochberg, holm, monte_carlo_p

RNG = np.random.default_rng(41)


def test_a_value_is_counted_among_its_draws():
    draws = np.array([1.0, 2.0, 3.0, 4.0])
    assert monte_carlo_p(2.5, draws) == pytest.approx(3 / 5)
    assert monte_carlo_p(9.0, draws) == pytest.approx(1 / 5)
    assert monte_carlo_p(3.0, draws) == pytest.approx(3 / 5)  # a tie counts as reached
    assert np.isnan(monte_carlo_p(np.nan, draws))
    two = monte_carlo_p(np.array([2.5, 9.0]), np.stack([draws, draws], axis=1))
    np.testing.assert_allclose(two, [3 / 5, 1 / 5])


def test_monte_carlo_p_values_of_one_more_draw_are_uniform():
    p = [monte_carlo_p(RNG.standard_normal(), RNG.standard_normal(199)) for _ in range(500)]
    assert kstest(p, "uniform").pvalue > 0.01


def test_benjamini_hochberg_is_the_step_up_rule_and_keeps_the_order_and_gaps():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    np.testing.assert_allclose(benjamini_hochberg(p), [[0.03, np.nan], [0.04, 0.04]])
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all()


def test_benjamini_hochberg_holds_the_share_of_false_findings():
    shares = []
    for _ in range(300):
        p = np.concatenate([RNG.uniform(size=80), RNG.uniform(size=20) / 1000])
        called = benjamini_hochberg(p) <= 0.1
        shares.append(called[:80].sum() / max(called.sum(), 1))
    assert np.mean(shares) == pytest.approx(0.08, abs=0.02)  # 0.1 times the share of true nulls


def test_holm_is_the_step_down_rule():
    np.testing.assert_allclose(
        holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005])), [0.03, 0.06, np.nan, 0.06, 0.02]
    )
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])


def test_holm_holds_the_chance_of_any_false_finding():
    wrong = [(holm(RNG.uniform(size=4)) < 0.05).any() for _ in range(2000)]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.015)
