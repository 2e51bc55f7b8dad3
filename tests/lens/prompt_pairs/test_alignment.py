"""Alignments have the fewest changes, cover both texts in order, and keep phrases together."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens.errors import LensError
from lens.prompt_pairs.alignment import (
    DELETED,
    INSERTED,
    KINDS,
    SAME,
    SUBSTITUTED,
    align,
    same_place,
)

TEXTS = st.lists(st.integers(0, 3), max_size=12)
SHORT = st.lists(st.integers(0, 2), max_size=5)


def ids(text: str) -> np.ndarray:
    return np.array([ord(c) for c in text], dtype=np.int32)


def kinds(a: str, b: str) -> str:
    return "".join("=xdi"[k] for k in align(ids(a), ids(b)).kind)


def all_alignments(a: tuple, b: tuple) -> list[tuple]:
    """Every sequence of kinds that turns one list into the other."""

    @lru_cache(None)
    def rest(i: int, j: int) -> tuple[tuple, ...]:
        if i == len(a) and j == len(b):
            return ((),)
        found: list[tuple] = []
        if i < len(a) and j < len(b):
            kind = SAME if a[i] == b[j] else SUBSTITUTED
            found += [(kind, *tail) for tail in rest(i + 1, j + 1)]
        if i < len(a):
            found += [(DELETED, *tail) for tail in rest(i + 1, j)]
        if j < len(b):
            found += [(INSERTED, *tail) for tail in rest(i, j + 1)]
        return tuple(found)

    return list(rest(0, 0))


def rank(kind: tuple | np.ndarray) -> tuple[int, int, int]:
    """Changes, equal tokens (more is better), runs."""
    kind = list(kind)
    runs = sum(x != y for x, y in zip(kind, kind[1:], strict=False)) + bool(kind and kind[-1])
    return sum(k != SAME for k in kind), -sum(k == SAME for k in kind), runs


@settings(max_examples=150, deadline=None)
@given(SHORT, SHORT)
def test_no_alignment_of_short_texts_is_better_than_the_one_found(a, b):
    best = min(rank(kind) for kind in all_alignments(tuple(a), tuple(b)))
    assert rank(align(np.array(a, dtype=int), np.array(b, dtype=int)).kind) == best


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_every_token_stands_once_in_its_order_and_kinds_say_what_pairs_hold(a, b):
    found = align(np.array(a, dtype=int), np.array(b, dtype=int))
    assert found.first[found.first >= 0].tolist() == list(range(len(a)))
    assert found.second[found.second >= 0].tolist() == list(range(len(b)))
    for i, j, kind in zip(found.first, found.second, found.kind, strict=True):
        if kind in (SAME, SUBSTITUTED):
            assert (a[i] == b[j]) == (kind == SAME)
        else:
            assert (i >= 0) == (kind == DELETED) and (j >= 0) == (kind == INSERTED)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_exchanging_the_texts_exchanges_deleted_and_inserted_and_nothing_else(a, b):
    one = align(np.array(a, dtype=int), np.array(b, dtype=int))
    other = align(np.array(b, dtype=int), np.array(a, dtype=int))
    np.testing.assert_array_equal(one.first, other.second)
    np.testing.assert_array_equal(one.second, other.first)
    np.testing.assert_array_equal(np.array([0, 1, 3, 2])[one.kind], other.kind)


def test_the_distance_of_a_textbook_pair_is_three():
    assert align(ids("kitten"), ids("sitting")).distance == 3
    assert kinds("kitten", "sitting") == "x===x=i"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("", "", ""),
        ("", "ab", "ii"),
        ("ab", "", "dd"),
        ("abc", "abc", "==="),
        ("the cat", "the old cat", "====iiii==="),
        ("the old cat", "the cat", "====dddd==="),
        ("abcdef", "abXYef", "==xx=="),
        ("ab", "ba", "d=i"),
    ],
)
def test_phrases_stay_in_one_piece_and_equal_tokens_are_preferred(a, b, expected):
    found = kinds(a, b)
    if expected == "d=i":  # which of two letters stays is decided by the letters alone
        assert found in ("d=i", "i=d")
    else:
        assert found == expected


def test_the_common_start_ends_at_the_first_change():
    assert align(ids("abcd"), ids("abXd")).common_start == 2
    assert align(ids("abcd"), ids("abcd")).common_start == 4
    assert align(ids("Xabc"), ids("abc")).common_start == 0
    assert align(ids("abcd"), ids("abXd")).same.tolist() == [0, 1, 3]


def test_a_text_beside_itself_is_the_alignment_of_equal_texts():
    found, plain = align(ids("aabab"), ids("aabab")), same_place(5)
    for name in ("first", "second", "kind"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))


def test_long_texts_align_with_the_number_of_changes_that_was_made():
    rng = np.random.default_rng(0)
    text = rng.permutation(2048)
    other = np.concatenate([text[:500], text[540:1200], [9000] * 30, text[1200:2000]])
    found = align(text, other)
    assert found.distance == 40 + 30 + 48
    assert [found.count(k) for k in range(len(KINDS))] == [1960, 0, 88, 30]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((2, 2), dtype=int), r"shape \(2, 2\)"),
        (np.zeros(3), "float64"),
        (np.zeros(2049, dtype=int), "2,049 tokens; at most 2,048"),
    ],
)
def test_what_is_no_short_list_of_ids_is_refused(tokens, message):
    with pytest.raises(LensError, match=message):
        align(np.arange(3), tokens)
