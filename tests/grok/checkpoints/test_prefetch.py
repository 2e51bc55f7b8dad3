"""Results come in order, few are under way, and an end ends the work."""

from __future__ import annotations

import threading
import time

import pytest

from grok.checkpoints.prefetch import prefetch


class Work:
    """Squares numbers slowly, and counts."""

    def __init__(self, wrong: int | None = None) -> None:
        self.wrong = wrong
        self.begun: list[int] = []
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, n: int) -> int:
        with self.lock:
            self.begun.append(n)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.01 * (n % 3))
        with self.lock:
            self.now -= 1
        if n == self.wrong:
            raise ValueError(f"{n} is wrong")
        return n * n


@pytest.mark.parametrize("at_once", [1, 2, 5, 50])
def test_results_come_in_the_order_of_the_items(at_once: int):
    work = Work()
    assert list(prefetch(work, range(20), at_once)) == [n * n for n in range(20)]
    assert sorted(work.begun) == list(range(20)) and work.most <= at_once


def test_several_run_at_a_time():
    gate = threading.Barrier(3, timeout=120)
    assert list(prefetch(lambda n: (gate.wait(), n)[1], range(6), 3)) == list(range(6))


@pytest.mark.parametrize("at_once", [1, 4])
def test_no_more_are_begun_than_are_taken_and_run(at_once: int):
    work = Work()
    coming = prefetch(work, range(100), at_once)
    assert [next(coming) for _ in range(3)] == [0, 1, 4]
    coming.close()  # type: ignore[attr-defined]
    assert len(work.begun) <= 3 + at_once


@pytest.mark.parametrize("at_once", [1, 4])
def test_an_error_comes_in_its_place_and_ends_the_work(at_once: int):
    work, found = Work(wrong=5), []
    with pytest.raises(ValueError, match="5 is wrong"):
        for result in prefetch(work, range(100), at_once):
            found.append(result)
    assert found == [0, 1, 4, 9, 16] and len(work.begun) <= 6 + at_once
