"""Rankings compared between the views."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from lens.layers.ranking import ranking_change

RNG = np.random.default_rng(73)


def test_the_same_order_changes_nothing():
    values = RNG.standard_normal((6, 8))
    found = ranking_change(values, 3 * values + 1)
    assert (found.kept, found.top, found.same_first, found.changes) == (10, 10, True, False)
    assert found.tau == pytest.approx(1)


def test_what_leaves_the_top_is_counted_and_said():
    first = np.arange(30.0)
    second = first.copy()
    second[[29, 28]] = -1
    found = ranking_change(first, second, top=5)
    assert (found.kept, found.same_first) == (3, False) and found.changes
    assert found.tau == pytest.approx(kendalltau(first, second).statistic)
    said = found.sentence("experts")
    assert "3 of the 5 highest experts" in said and "first place goes to another" in said


def test_values_that_are_no_numbers_are_left_out():
    found = ranking_change(np.array([np.nan, 2.0, 1.0]), np.array([9.0, 2.0, 1.0]))
    assert (found.top, found.kept) == (2, 2)
    nothing = ranking_change(np.array([np.nan]), np.array([1.0]))
    assert nothing.top == 0 and not nothing.changes
    assert np.isnan(ranking_change(np.ones(3), np.ones(3)).tau)
