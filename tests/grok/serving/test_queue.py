"""One caller at a time, in the order they came; nobody waits for ever, nobody's place leaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from grok.errors import BusyError, PromptError
from grok.serving.queue import PromptQueue
from grok.serving.shared_model import SharedModel


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

    def __init__(self, queue: PromptQueue) -> None:
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
    queue, order, together = PromptQueue(), [], []
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


def test_those_who_wait_are_told_how_many_are_ahead_each_time_it_changes():
    queue, told = PromptQueue(), []
    first, between = Inside(queue), threading.Event()
    second = started(lambda: run_until(queue, between))
    until(lambda: queue.n_callers == 2)
    third = started(lambda: enter(queue, told.append))
    until(lambda: told[:1] == [2])
    first.go()
    until(lambda: list(dict.fromkeys(told)) == [2, 1])
    between.set()
    second.join(120)
    third.join(120)
    assert list(dict.fromkeys(told)) == [2, 1]  # and nothing when it is its turn


def run_until(queue: PromptQueue, event: threading.Event) -> None:
    with queue.turn():
        event.wait(120)


def enter(queue: PromptQueue, on_wait: Callable[[int], object] | None = None) -> None:
    with queue.turn(on_wait):
        pass


def test_a_caller_who_need_not_wait_is_told_nothing():
    told: list[int] = []
    enter(PromptQueue(), told.append)
    assert told == []


def test_a_full_queue_turns_the_next_one_away_at_once():
    queue = PromptQueue(most_waiting=1)
    first = Inside(queue)
    waiting = started(lambda: enter(queue))
    until(lambda: queue.n_callers == 2)
    with pytest.raises(BusyError, match="busy and 1 others wait already. Try again"):
        enter(queue)
    first.go()
    waiting.join(120)
    enter(queue)  # there is room again


def test_a_caller_who_waited_too_long_gives_up_its_place():
    queue = PromptQueue(timeout=0.05)
    first = Inside(queue)
    for on_wait in (None, lambda ahead: None):
        with pytest.raises(BusyError, match="busy for 0 seconds"):
            enter(queue, on_wait)
    assert queue.n_callers == 1
    first.go()
    enter(queue)


def test_patience_follows_what_a_turn_takes_and_how_many_are_ahead():
    queue = PromptQueue(timeout=0.05)
    queue.expect_turn(0.2)
    first = Inside(queue)
    began = time.monotonic()
    with pytest.raises(BusyError, match="busy"):
        enter(queue)
    assert time.monotonic() - began >= 0.45
    first.go()


def test_the_longest_turn_of_those_in_the_queue_is_expected():
    queue = PromptQueue()
    queue.expect_turn(30)
    queue.expect_turn(20)  # nobody is in the queue, so the 30 seconds are no longer expected
    assert queue.turn_seconds == 20
    first = Inside(queue)
    for seconds, expected in ((5, 20), (60, 60)):
        queue.expect_turn(seconds)
        assert queue.turn_seconds == expected
    first.go()


def test_who_waits_is_asked_again_so_that_it_can_leave_without_anybody_moving():
    queue, told = PromptQueue(), []
    first = Inside(queue)

    def leave(ahead: int) -> None:
        told.append(ahead)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enter(queue, leave)
    assert told == [1, 1] and queue.n_callers == 1
    first.go()


def test_one_who_gives_up_lets_those_behind_move_up():
    queue = PromptQueue(timeout=120)
    first, told = Inside(queue), []
    waits = [started(lambda: pytest.raises(ZeroDivisionError, enter, queue, lambda a: 1 / 0))]
    waits[0].join(120)  # its callback failed, so it left
    waits.append(started(lambda: enter(queue, told.append)))
    until(lambda: told == [1])
    first.go()
    waits[1].join(120)
    assert queue.n_callers == 0


def test_an_error_inside_frees_the_place():
    queue = PromptQueue(most_waiting=0)
    with pytest.raises(ZeroDivisionError), queue.turn():
        1 / 0  # noqa: B018
    assert queue.n_callers == 0
    enter(queue)


# --- the shared model ------------------------------------------------------------------


def test_two_peoples_prompts_never_mix(tiny3):
    shared, rng = SharedModel(tiny3), np.random.default_rng(0)
    prompts = [rng.integers(1, 512, size).tolist() for size in (3, 9, 12, 16) * 3]
    alone = [tiny3.trace_routing(prompt) for prompt in prompts]
    traces: dict[int, object] = {}

    def person(which: int) -> None:
        for number in range(which, len(prompts), 3):
            traces[number] = shared.trace(prompts[number])

    threads = [started(lambda which=which: person(which)) for which in range(3)]  # type: ignore[misc]
    for thread in threads:
        thread.join(120)
    for number, wanted in enumerate(alone):
        got = traces[number].arrays()  # type: ignore[attr-defined]
        for name, array in wanted.arrays().items():
            assert np.array_equal(got[name], array), (number, name)


def test_a_continuation_keeps_the_model_until_it_ends_and_then_lets_go(tiny3):
    shared = SharedModel(tiny3)
    steps = shared.stream([5, 17], max_new_tokens=3)
    next(steps)
    assert shared.queue.n_callers == 1
    steps.close()  # the reader went away
    assert shared.queue.n_callers == 0
    assert shared.generate([5, 17], max_new_tokens=3).trace.tokens.size == 4
    assert shared.queue.n_callers == 0


def test_an_unusable_prompt_is_refused_without_waiting(tiny3):
    shared = SharedModel(tiny3)
    first = Inside(shared.queue)
    with pytest.raises(PromptError, match="empty"):
        shared.trace([])
    with pytest.raises(PromptError, match="no tokenizer"):
        shared.generate("text", max_new_tokens=1)
    assert shared.queue.n_callers == 1
    first.go()
