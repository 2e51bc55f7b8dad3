"""The largest of streamed values and who is selected, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lens.vocabulary.top_tokens import Largest, margins, selection_counts, selection_thresholds


@settings(max_examples=60, deadline=None)
@given(
    seed=some.integers(0, 10**6),
    n_tokens=some.integers(1, 40),
    kept=some.integers(1, 8),
    cut=some.integers(1, 40),
    levels=some.integers(1, 30),
)
def test_largest_is_what_sorting_everything_gives(
    seed: int, n_tokens: int, kept: int, cut: int, levels: int
) -> None:
    kept = min(kept, n_tokens)
    values = np.random.default_rng(seed).integers(0, levels, (3, n_tokens)).astype(np.float32)
    largest = Largest(3, kept)
    for start in range(0, n_tokens, cut):
        block = values[:, start : start + cut]
        largest.add(block, start, beside=block * 10)
    order = np.argsort(-values, axis=1, kind="stable")[:, :kept]
    np.testing.assert_array_equal(largest.tokens, order)
    np.testing.assert_array_equal(largest.values, np.take_along_axis(values, order, axis=1))
    np.testing.assert_array_equal(largest.beside, largest.values * 10)


def test_places_that_nothing_filled_say_so() -> None:
    largest = Largest(1, 3)
    largest.add(np.array([[2.0]], np.float32), 5)
    assert largest.tokens.tolist() == [[5, -1, -1]]
    assert largest.values.tolist() == [[2.0, -np.inf, -np.inf]]


@settings(max_examples=60, deadline=None)
@given(
    seed=some.integers(0, 10**6),
    n_experts=some.integers(2, 9),
    top_k=some.integers(1, 9),
    levels=some.integers(1, 30),
)
def test_counts_are_those_of_a_stable_sort(
    seed: int, n_experts: int, top_k: int, levels: int
) -> None:
    top_k = min(top_k, n_experts)
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (2, n_experts, 11)).astype(np.float32)
    last, following = selection_thresholds(scores, top_k)
    ranked = -np.sort(-scores, axis=1)
    np.testing.assert_array_equal(last, ranked[:, top_k - 1])
    if top_k < n_experts:
        np.testing.assert_array_equal(following, ranked[:, top_k])
    first = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    expected = (first[:, :, None] == np.arange(n_experts)[:, None]).any(axis=1).sum(axis=2)
    np.testing.assert_array_equal(selection_counts(scores, last, following, top_k), expected)


@pytest.mark.parametrize(
    "top_k, expected",
    [
        (1, [1, -1, -2, -3.5]),
        (2, [2, 1, -1, -2.5]),
        (3, [3.5, 2.5, 1.5, -1.5]),
        (4, [np.nan] * 4),
    ],
)
def test_margin_is_the_distance_to_what_decides_the_selection(
    top_k: int, expected: list[float]
) -> None:
    scores = np.array([3, 2, 1, -0.5])
    last, following = selection_thresholds(scores[None, :, None], top_k)
    np.testing.assert_array_equal(margins(scores, last[0], following[0]), expected)


def test_equal_scores_have_no_margin_between_them() -> None:
    scores = np.array([2.0, 1.0, 1.0, 0.0])
    last, following = selection_thresholds(scores[None, :, None], 2)
    np.testing.assert_array_equal(margins(scores, last[0], following[0]), [1, 0, 0, -1])
