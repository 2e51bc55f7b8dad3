"""One caller at a time, each person in turn; nobody waits for ever, nobody's place leaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from grok.errors import BusyError
from grok.serving.queue import BETWEEN, Caller, FairQueue, Waiting


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited 120 s"
        time.sleep(0.002)


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class Inside:
    """Someone who stays inside until told to leave."""

    def __init__(self, queue: FairQueue) -> None:
        self.leave = threading.Event()
        inside = threading.Event()

        def stay() -> None:
            with queue.turn():
                inside.set()
                self.leave.wait(120)

        self.thread = started(stay)
        assert inside.wait(120)

    def go(self) -> None:
        self.leave.set()
        self.thread.join(120)


def test_callers_pass_one_at_a_time_in_the_order_they_came():
    queue, order, together = FairQueue(), [], []
    first = Inside(queue)

    def caller(number: int) -> None:
        with queue.turn():
            together.append(1)
            assert len(together) == 1
            order.append(number)
            time.sleep(0.005)
            together.pop()

    threads = []
    for number in range(6):
        threads.append(started(lambda number=number: caller(number)))  # type: ignore[misc]
        until(lambda number=number: queue.n_callers == number + 2)  # type: ignore[misc]
    first.go()
    for thread in threads:
        thread.join(120)
    assert order == list(range(6))
    assert queue.n_callers == 0


def test_those_who_wait_are_told_how_many_are_ahead_and_when_it_is_over():
    queue, told = FairQueue(), []
    first, between = Inside(queue), threading.Event()
    second = started(lambda: run_until(queue, between))
    until(lambda: queue.n_callers == 2)
    third = started(lambda: enter(queue, lambda waiting: told.append(waiting.place)))
    until(lambda: told[:1] == [2])
    first.go()
    until(lambda: list(dict.fromkeys(told)) == [2, 1])
    between.set()
    second.join(120)
    third.join(120)
    assert list(dict.fromkeys(told)) == [2, 1, 0]


def run_until(queue: FairQueue, event: threading.Event) -> None:
    with queue.turn():
        event.wait(120)


def enter(queue: FairQueue, on_wait: Callable[[Waiting], object] | None = None) -> None:
    with queue.turn(on_wait):
        pass


def test_a_caller_who_need_not_wait_is_told_nothing():
    told: list[Waiting] = []
    enter(FairQueue(), told.append)
    assert told == []


def test_a_full_queue_turns_the_next_one_away_at_once():
    queue = FairQueue(most_waiting=1)
    first = Inside(queue)
    waiting = started(lambda: enter(queue))
    until(lambda: queue.n_callers == 2)
    with pytest.raises(
        BusyError, match="busy and 1 others wait already. Try again in about"
    ) as busy:
        enter(queue)
    assert busy.value.retry_after >= 1
    first.go()
    waiting.join(120)
    enter(queue)  # there is room again


def test_a_caller_who_waited_too_long_gives_up_its_place():
    queue = FairQueue(timeout=0.05)
    first = Inside(queue)
    for on_wait in (None, lambda ahead: None):
        with pytest.raises(BusyError, match="busy for 0 seconds"):
            enter(queue, on_wait)
    assert queue.n_callers == 1
    first.go()
    enter(queue)


def test_patience_follows_what_a_turn_takes_and_how_many_are_ahead():
    queue = FairQueue(timeout=0.05)
    queue.expect_turn(0.2)
    first = Inside(queue)
    began = time.monotonic()
    with pytest.raises(BusyError, match="busy"):
        enter(queue)
    assert time.monotonic() - began >= 0.45
    first.go()


def test_the_longest_turn_of_those_in_the_queue_is_expected():
    queue = FairQueue()
    queue.expect_turn(30)
    queue.expect_turn(20)  # nobody is in the queue, so the 30 seconds are no longer expected
    assert queue.turn_seconds == 20
    first = Inside(queue)
    for seconds, expected in ((5, 20), (60, 60)):
        queue.expect_turn(seconds)
        assert queue.turn_seconds == expected
    first.go()


def test_who_waits_is_asked_again_so_that_it_can_leave_without_anybody_moving():
    queue, told = FairQueue(), []
    first = Inside(queue)

    def leave(waiting: Waiting) -> None:
        told.append(waiting.place)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enter(queue, leave)
    assert told == [1, 1] and queue.n_callers == 1
    first.go()


def test_one_who_gives_up_lets_those_behind_move_up():
    queue = FairQueue(timeout=120)
    first, told = Inside(queue), []
    waits = [started(lambda: pytest.raises(ZeroDivisionError, enter, queue, lambda a: 1 / 0))]
    waits[0].join(120)  # its callback failed, so it left
    waits.append(started(lambda: enter(queue, lambda waiting: told.append(waiting.place))))
    until(lambda: told == [1])
    first.go()
    waits[1].join(120)
    assert queue.n_callers == 0


def test_an_error_inside_frees_the_place():
    queue = FairQueue(most_waiting=0)
    with pytest.raises(ZeroDivisionError), queue.turn():
        1 / 0  # noqa: B018
    assert queue.n_callers == 0
    enter(queue)


# --- whose turn it is ------------------------------------------------------------------


class Order:
    """Callers who wait behind somebody, and the order in which they then come."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue, self.came, self.threads = queue, [], []  # type: ignore[var-annotated]
        self.first = Inside(queue)

    def ask(self, name: str, *, background: bool = False) -> None:
        """The letter is the person, the digit the number of the request."""
        before = self.queue.n_callers

        def caller() -> None:
            with self.queue.turn(caller=Caller(name[0], background)):
                self.came.append(name)

        self.threads.append(started(caller))
        until(lambda: self.queue.n_callers == before + 1)

    def of_all(self) -> str:
        self.first.go()
        for thread in self.threads:
            thread.join(120)
        return " ".join(self.came)


def test_people_take_turns_however_much_each_has_asked_for():
    order = Order(FairQueue())
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        order.ask(name)
    assert order.of_all() == "a1 b1 c1 a2 b2 a3"


def test_who_has_just_had_a_turn_stands_behind_who_has_not():
    queue = FairQueue()
    with queue.turn(caller=Caller("a")):
        pass
    order = Order(queue)
    order.ask("a2")
    order.ask("b1")
    assert order.of_all() == "b1 a2"


def test_who_gave_up_much_is_not_set_back_for_it():
    queue = FairQueue()
    order = Order(queue)
    with queue.visit(Caller("a")) as visit, pytest.raises(ZeroDivisionError):
        visit.together([("key", 0)] * 50, lambda key, items: items, lambda key, n: n, give_up)
    order.ask("a1")
    order.ask("b1")
    order.ask("b2")
    order.ask("a2")
    assert order.of_all() == "a1 b1 b2 a2"


def give_up(waiting: Waiting) -> None:
    raise ZeroDivisionError


def test_a_person_who_waits_comes_before_the_background_which_has_a_turn_all_the_same():
    order = Order(FairQueue())
    order.ask("z0", background=True)
    order.ask("z1", background=True)
    people = [f"{chr(97 + i)}0" for i in range(BETWEEN + 2)]
    for name in people:
        order.ask(name)
    came = order.of_all().split()
    assert came.index("z0") in (BETWEEN - 1, BETWEEN - 2) and came[-1] == "z1"
    assert [name for name in came if name[0] != "z"] == people


def test_no_one_person_fills_the_queue():
    queue = FairQueue(most_of_one=2)
    with queue.visit(Caller("a")), queue.visit(Caller("a")), queue.visit(Caller("b")):
        with pytest.raises(BusyError, match="2 requests of yours wait already; at most 2 may"):
            enter_as(queue, Caller("a"))
    enter_as(queue, Caller("a"))


def enter_as(queue: FairQueue, caller: Caller) -> None:
    with queue.turn(caller=caller):
        pass


def test_the_expected_wait_is_measured():
    queue = FairQueue()
    for _ in range(3):
        with queue.turn():
            time.sleep(0.05)
    first, told = Inside(queue), []
    waiting = started(lambda: enter(queue, told.append))
    until(lambda: bool(told))
    first.go()
    waiting.join(120)
    assert told[0].place == 1 and 0.05 <= told[0].seconds < 60


# --- turns that are shared --------------------------------------------------------------


def test_items_of_one_key_share_a_turn_and_each_caller_gets_its_own():
    queue, runs = FairQueue(), []
    first = Inside(queue)

    def run(key: object, items: list[int]) -> list[tuple[object, int]]:
        runs.append((key, len(items)))
        return [(key, item) for item in items]

    found: dict[int, list[object]] = {}

    def caller(n: int) -> None:
        with queue.visit(Caller(n)) as visit:
            items = [(n % 2, 10 * n), (n % 2, 10 * n + 1)]
            found[n] = visit.together(items, run, lambda key, waiting: min(waiting, 8))

    threads = [started(lambda n=n: caller(n)) for n in range(10)]  # type: ignore[misc]
    until(lambda: queue.n_callers == 11)
    first.go()
    for thread in threads:
        thread.join(120)
    assert found == {n: [(n % 2, 10 * n), (n % 2, 10 * n + 1)] for n in range(10)}
    assert sorted(runs) == [(0, 2), (0, 8), (1, 2), (1, 8)]
    assert queue.n_callers == 0


def test_one_item_that_fails_spoils_no_other():
    queue = FairQueue()

    def run(key: object, items: list[int]) -> list[float]:
        return [1 / item for item in items]

    with queue.visit() as visit, pytest.raises(ZeroDivisionError):
        visit.together([(0, 1), (0, 0)], run, lambda key, n: n)
    first, found = Inside(queue), []

    def caller(item: int) -> None:
        try:
            with queue.visit() as visit:
                found.append(visit.together([(0, item)], run, lambda key, n: n)[0])
        except ZeroDivisionError:
            found.append(None)

    threads = [started(lambda item=item: caller(item)) for item in (1, 0, 2)]  # type: ignore[misc]
    until(lambda: queue.n_callers == 4)
    first.go()
    for thread in threads:
        thread.join(120)
    assert sorted(found, key=str) == [0.5, 1.0, None]


def test_who_is_cut_short_while_running_for_others_tells_them():
    queue, first, errors = FairQueue(), None, []
    first = Inside(queue)

    def run(key: object, items: list[int]) -> list[int]:
        raise SystemExit

    def caller() -> None:
        try:
            with queue.visit() as visit:
                visit.together([(0, 1)], run, lambda key, n: n)
        except (BusyError, SystemExit) as error:
            errors.append(type(error).__name__)

    threads = [started(caller) for _ in range(3)]
    until(lambda: queue.n_callers == 4)
    first.go()
    for thread in threads:
        thread.join(120)
    assert sorted(errors) == ["BusyError", "BusyError", "SystemExit"]
    assert queue.n_callers == 0
