"""What tabs hold on the server: whose it is, and how much of it there can be."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from pages.hosting.shelf import ID, Shelf, new_id, size_of

ONE, OTHER = "1" * 64, "2" * 64


@dataclass
class Clock:
    hours: float = 0.0

    def __call__(self) -> float:
        return self.hours * 3600


def test_ids_are_long_and_never_the_same():
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000 and all(re.fullmatch(ID, one) for one in ids)


def test_only_its_owner_finds_changes_and_drops_what_a_tab_holds():
    shelf = Shelf()
    assert shelf.put("a", ONE, {"x": 1})
    assert shelf.get("a", ONE) == {"x": 1}
    assert shelf.get("a", OTHER) is None and not shelf.put("a", OTHER, {"x": 2})
    shelf.drop("a", OTHER)
    assert shelf.get("a", ONE) == {"x": 1}
    shelf.drop("a", ONE)
    assert shelf.get("a", ONE) is None and len(shelf) == 0


def test_what_was_not_looked_at_for_its_time_is_let_go():
    clock = Clock()
    shelf = Shelf(hours=24, now=clock)
    shelf.put("a", ONE, {"x": 1})
    clock.hours = 23
    assert shelf.get("a", ONE) is not None
    clock.hours = 46
    assert shelf.get("a", ONE) is not None
    clock.hours = 71
    assert shelf.get("a", ONE) is None and len(shelf) == 0


@pytest.mark.parametrize(
    ("limits", "left"),
    [({"most_of_one": 2}, ["c", "d"]), ({"most": 3}, ["b", "c", "d"]), ({}, ["a", "b", "c", "d"])],
)
def test_the_longest_unseen_goes_first_where_there_are_too_many(limits, left):
    shelf = Shelf(**limits)
    for tab in "abcd":
        shelf.put(tab, ONE, {"x": tab})
    assert [tab for tab in "abcd" if shelf.get(tab, ONE)] == left


def test_all_together_and_each_alone_are_bounded_in_bytes():
    shelf = Shelf(max_bytes=25_000, max_entry=20_000)
    assert shelf.put("a", ONE, {"x": np.zeros(1250)}) and shelf.put("b", OTHER, {"x": "y" * 12_000})
    assert shelf.put("c", ONE, {"x": np.zeros(1250)})
    assert shelf.get("a", ONE) is None and shelf.get("b", OTHER) and shelf.n_bytes <= 25_000
    assert not shelf.put("c", ONE, {"x": np.zeros(2600)})
    assert shelf.get("c", ONE) is None  # nothing old stays in its place either


def test_a_size_counts_every_array_once_wherever_it_is():
    @dataclass
    class Result:
        found: np.ndarray
        more: dict

    array = np.zeros(1000)
    nested = size_of({"x": [Result(array, {"again": (array, array)})]})
    assert 8000 < nested < 10_000
