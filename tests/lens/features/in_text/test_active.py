"""Features of a text beside their usual rate, and beside stretches of other text."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from lens.errors import LensError
from lens.features.in_text.active import beside, keyness, text_features

RATES = np.array([[0.3, 0.01, 0.0], [0.5, 0.02, 0.9]])


def strengths(active: dict[tuple[int, int], list[int]], length: int = 10) -> list[np.ndarray]:
    found = [np.zeros((length, 3), np.float32) for _ in range(2)]
    for (group, feature), tokens in active.items():
        found[group][tokens, feature] = 1 + np.arange(len(tokens))
    return found


def read(active: dict[tuple[int, int], list[int]], **options):
    return text_features(strengths(active), RATES, usual_tokens=1000, **options)


def test_keyness_is_the_log_likelihood_ratio_of_a_rate_of_its_own():
    n, tokens, rates = np.array([7, 20, 1, 3]), 20, np.array([0.1, 0.5, 0.05, 0.4])
    ratio = binom.logpmf(n, tokens, n / tokens) - binom.logpmf(n, tokens, rates)
    np.testing.assert_allclose(keyness(n, tokens, rates), [*ratio[:2], 0.0, 0.0], atol=1e-12)


def test_what_is_active_in_every_text_is_not_unusual_and_a_rare_one_is():
    found = read({(0, 0): [1, 4, 8], (0, 1): [2, 3], (1, 2): list(range(9)), (0, 2): [5]})
    assert list(zip(found.group, found.feature, strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 2)]
    assert found.n.tolist() == [3, 2, 1, 9]
    np.testing.assert_allclose(found.expected, [3, 0.1, 0.005, 9])
    assert found.unusual[[0, 3]].tolist() == [0, 0] and found.most_unusual == found.unusual[2]
    assert found.largest.tolist() == [3, 2, 1, 9] and found.at.tolist() == [8, 3, 5, 8]
    assert found.strengths(0, 1).tolist() == [0, 0, 1, 2, 0, 0, 0, 0, 0, 0]
    assert not found.strengths(1, 0).any()
    assert found.at_token(8).tolist() == [3, 0, 0, 9]


def test_tokens_that_the_dictionary_does_not_know_are_not_counted():
    found = read({(0, 1): [0, 1, 6], (1, 1): [0]}, skipped=2)
    assert found.tokens == 8 and found.n.tolist() == [1] and found.at.tolist() == [6]
    assert found.strengths(0, 1).tolist() == [0, 0, 0, 0, 0, 0, 3, 0, 0, 0]
    assert not len(read({}).n) and read({}).most_unusual == 0


def test_a_feature_that_stays_on_in_other_stretches_too_is_counted_there():
    text = read({(0, 1): [1, 2, 3], (1, 1): [4], (1, 0): [0]})
    others = [read({(0, 1): [5, 6, 7, 8]}), read({(0, 1): [1], (1, 1): [1, 2]}), read({})]
    found = beside(text, others)
    assert found.stretches == 3 and found.as_often.tolist() == [1, 0, 1]
    assert found.most_unusual.tolist() == [one.most_unusual for one in others]
    assert beside(text, []).as_often.tolist() == [0, 0, 0]


def test_rates_of_another_dictionary_are_refused():
    with pytest.raises(LensError, match="do not belong together"):
        text_features(strengths({}), RATES[:, :2], usual_tokens=10)
