"""One fair queue around something that one caller uses at a time.

Whoever waits at a prompt of their own comes before work in the background, and people take turns:
who has just had one stands behind those who have not, however much each of them has asked for.
Work in the background has at least one turn in `BETWEEN`.

Some work can share a turn. It waits as items under a key; whose turn comes runs its own item
together with others under the same key, and each caller gets the result of its own.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from grok.errors import BusyError
from grok.serving import metrics
from grok.serving.rounds import Rounds

MOST_WAITING = 200
MOST_OF_ONE = 64
BETWEEN = 8  # turns, of which one is for the background while anything waits there
TELL_AFTER = 0.1  # seconds of waiting before `on_wait` is called
TELL_EVERY = 1.0  # seconds between two of its calls
NEWEST = 0.2  # weight of the last turn in the mean that a wait is told from


class Waiting(NamedTuple):
    """How long a caller still waits.

    Attributes:
        place: turns that come first, the one under way among them; 0 when the wait is over.
        seconds: that they are expected to take, from how long turns took of late.
    """

    place: int
    seconds: float


OnWait = Callable[[Waiting], object]


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        person: the same for all that one person asks for; None: nobody else asks for this one.
        background: True for work that nobody watches each step of.
    """

    person: Hashable = None
    background: bool = False


NOBODY = Caller()


@dataclass(eq=False)
class _Ticket:
    """One turn that is waited for, or one item that may share one."""

    visit: Visit
    round: int
    number: int
    key: Hashable = None
    item: Any = None
    done: bool = False
    result: Any = None
    error: BaseException | None = None

    @property
    def order(self) -> tuple[bool, int, int]:
        return self.visit.caller.background, self.round, self.number


class FairQueue:
    """Lets callers through one by one, each person in turn.

    Args:
        most_waiting: callers that may wait; one more is turned away at once.
        timeout: seconds a caller waits before it gives up, besides twice the expected time of
            everyone before it.
        slots: callers that have their turn at once.
        most_of_one: callers of one person.
    """

    def __init__(
        self,
        most_waiting: int = MOST_WAITING,
        timeout: float = 120.0,
        *,
        slots: int = 1,
        most_of_one: int = MOST_OF_ONE,
    ) -> None:
        self.most_waiting, self.timeout = most_waiting, timeout
        self.slots, self.most_of_one = slots, most_of_one
        self._lock = threading.Lock()
        self._visits: set[Visit] = set()
        self._waiting: list[_Ticket] = []
        self._holders = 0
        self._rounds = {False: Rounds(), True: Rounds()}
        self._numbers = itertools.count()
        self._since_background = 0
        self._measured = self._told = 0.0
        metrics.watch(self)

    # what others may know

    @property
    def n_callers(self) -> int:
        """Callers that have their turn or wait for one."""
        with self._lock:
            return len(self._visits)

    @property
    def turn_seconds(self) -> float:
        """Seconds that a turn takes of late, or is expected to; 0 while nothing is known."""
        return max(self._measured, self._told)

    def expect_turn(self, seconds: float) -> None:
        """Tells how long the turn of a caller to come will take.

        The longest turn that was told counts for everyone, until the queue is empty.
        """
        with self._lock:
            others = self._told if self._visits else 0.0
            self._told = max(others, seconds)

    # for callers

    @contextmanager
    def turn(self, on_wait: OnWait | None = None, *, caller: Caller = NOBODY) -> Iterator[None]:
        """Waits for this caller's turn, then holds it for the `with` block.

        Args:
            on_wait: called when a wait is longer than a moment and every second of it, and once
                with a place of 0 when it is over. An exception that it raises takes the caller
                out of the queue at once. It is not called under the queue's lock.
            caller: who asks.

        Raises:
            BusyError: too many wait, or the wait was longer than the timeout.
        """
        with self.visit(caller) as visit, visit.turn(on_wait):
            yield

    @contextmanager
    def visit(self, caller: Caller = NOBODY) -> Iterator[Visit]:
        """Lets a caller in, who may then take several turns; others have theirs between them.

        Raises:
            BusyError: too many are in.
        """
        visit = Visit(self, caller)
        with self._lock:
            n = len(self._visits) - self.slots
            own = [one for one in self._visits if one.person == visit.person]
            if n >= self.most_waiting:
                metrics.REFUSED.labels("full").inc()
                raise self._busy(f"The model is busy and {n} others wait already", n)
            if len(own) >= self.most_of_one:
                metrics.REFUSED.labels("person").inc()
                said = f"{len(own)} requests of yours wait already; at most {self.most_of_one} may"
                raise self._busy(said, len(own))
            self._visits.add(visit)
        try:
            yield visit
        finally:
            self._leave(visit)

    # for visits

    def join(self, visit: Visit, items: Sequence[tuple[Hashable, Any]]) -> list[_Ticket]:
        """Tickets for a turn of each item, given as (key, item)."""
        with self._lock:
            rounds = self._rounds[visit.caller.background]
            tickets = [
                _Ticket(visit, rounds.join(visit.person), next(self._numbers), key, item)
                for key, item in items
            ]
            self._waiting += tickets
            self._grant()
        return tickets

    def riders(self, ticket: _Ticket, fit: Callable[[Hashable, int], int]) -> list[_Ticket]:
        """The ticket whose turn it is, with those that share it; `fit` says how many of some."""
        with self._lock:
            same = sorted((t for t in self._waiting if t.key == ticket.key), key=_order)
            found = [ticket, *same[: max(fit(ticket.key, 1 + len(same)), 1) - 1]]
            for one in found[1:]:
                self._waiting.remove(one)
        return found

    def served(self, tickets: Sequence[_Ticket], seconds: float) -> None:
        """The turn of these tickets is over; the next one's begins."""
        metrics.TURNS.observe(seconds)
        metrics.TOGETHER.observe(len(tickets))
        with self._lock:
            for ticket in tickets:
                ticket.done = True
                ticket.visit.moved.set()
            each = seconds / len(tickets)
            known = self._measured or each
            self._measured = known + NEWEST * (each - known)
            self._holders -= 1
            self._grant()

    def place(self, visit: Visit) -> Waiting:
        """How long a visit still waits for its first turn."""
        with self._lock:
            own = min((t.order for t in self._waiting if t.visit is visit), default=None)
            before = 0 if own is None else sum(t.order < own for t in self._waiting)
            return self._wait_of(before + min(self._holders, self.slots))

    def withdraw(self, visit: Visit) -> None:
        """Take what a visit still waits for out of the queue."""
        with self._lock:
            self._withdraw(visit)

    def busy(self, patience: float) -> BusyError:
        """The error of who has waited for so many seconds."""
        with self._lock:
            metrics.REFUSED.labels("patience").inc()
            said = f"The model was busy for {patience:.0f} seconds"
            return self._busy(said, len(self._waiting))

    # under the lock

    def _leave(self, visit: Visit) -> None:
        with self._lock:
            self._withdraw(visit)
            self._visits.discard(visit)

    def _withdraw(self, visit: Visit) -> None:
        left = [ticket for ticket in self._waiting if ticket.visit is visit]
        for ticket in left:
            self._waiting.remove(ticket)
            self._rounds[visit.caller.background].give_back(visit.person, ticket.round)
        granted, visit.granted = visit.granted, None
        if granted is not None:  # its turn had come, and nobody has begun it
            self._holders -= 1
            self._grant()

    def _grant(self) -> None:
        while self._holders < self.slots and self._waiting:
            ticket = self._next()
            self._waiting.remove(ticket)
            background = ticket.visit.caller.background
            self._since_background = 0 if background else self._since_background + 1
            self._rounds[background].begin(ticket.round)
            self._holders += 1
            ticket.visit.granted = ticket
            ticket.visit.moved.set()

    def _next(self) -> _Ticket:
        first = min(self._waiting, key=_order)
        if first.visit.caller.background or self._since_background < BETWEEN - 1:
            return first
        return min((t for t in self._waiting if t.order[0]), key=_order, default=first)

    def _wait_of(self, place: int) -> Waiting:
        return Waiting(place, place * max(self._measured, self._told) / self.slots)

    def _busy(self, said: str, before: int) -> BusyError:
        seconds = max(1, math.ceil(self._wait_of(before).seconds))
        unit = "second" if seconds == 1 else "seconds"
        return BusyError(f"{said}. Try again in about {seconds} {unit}.", retry_after=seconds)


def _order(ticket: _Ticket) -> tuple[bool, int, int]:
    return ticket.order


@dataclass(eq=False)
class Visit:
    """A caller who was let in; made by `FairQueue.visit`.

    Attributes:
        granted: the ticket whose turn has come.
        moved: set when a turn has come, or a shared one is over.
    """

    queue: FairQueue
    caller: Caller
    granted: _Ticket | None = None
    moved: threading.Event = field(default_factory=threading.Event)

    @property
    def person(self) -> Hashable:
        """Whose turns are counted together."""
        return self if self.caller.person is None else self.caller.person

    @contextmanager
    def turn(self, on_wait: OnWait | None = None) -> Iterator[None]:
        """One turn, as `FairQueue.turn`; only a wait that is too long is refused."""
        tickets = self.queue.join(self, [(None, None)])
        with self._withdrawing():
            mine = self._wait(tickets, on_wait)
            began = time.monotonic()
            assert mine is not None, "a turn without a key is nobody else's"
            self.granted = None
            try:
                yield
            finally:
                self.queue.served([mine], time.monotonic() - began)

    def together(
        self,
        items: Sequence[tuple[Hashable, Any]],
        run: Callable[[Hashable, list[Any]], Sequence[Any]],
        fit: Callable[[Hashable, int], int],
        on_wait: OnWait | None = None,
    ) -> list[Any]:
        """The result of each item, each run with others under its key, of any caller.

        Args:
            items: as (key, item); a queue whose items share turns has one slot.
            run: gives a result, never None, for each of some items under one key; it must give
                each item the same whatever it is run with.
            fit: how many of so many items under one key go together.
            on_wait: see `FairQueue.turn`.

        Raises:
            BusyError: the wait was longer than the timeout; and what `run` raised for an item.
        """
        tickets = self.queue.join(self, items)
        with self._withdrawing():
            while (mine := self._wait(tickets, on_wait)) is not None:
                self.granted = None
                began = time.monotonic()
                members = [mine]
                try:
                    members = self.queue.riders(mine, fit)
                    _run_each(members, run)
                finally:
                    for one in members:
                        if one.error is None and one.result is None:
                            one.error = BusyError("This run was cut short. Send it again.")
                    self.queue.served(members, time.monotonic() - began)
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        return [ticket.result for ticket in tickets]

    @contextmanager
    def _withdrawing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.queue.withdraw(self)

    def _wait(self, tickets: Sequence[_Ticket], on_wait: OnWait | None) -> _Ticket | None:
        """A ticket of this visit whose turn has come; None when all of them are done."""
        began = time.monotonic()
        patience: float | None = None
        told, tell = False, TELL_AFTER
        while True:
            self.moved.clear()
            mine = self.granted
            if mine is not None or all(ticket.done for ticket in tickets):
                kind = metrics.KINDS[self.caller.background]
                metrics.WAITS.labels(kind).observe(time.monotonic() - began)
                if told and on_wait is not None:
                    on_wait(Waiting(0, 0.0))
                return mine
            if patience is None:
                patience = self.queue.timeout + 2 * self.queue.place(self).seconds
            left = began + patience - time.monotonic()
            if left <= 0:
                raise self.queue.busy(patience)
            if self.moved.wait(left if on_wait is None else min(left, tell)):
                continue
            if on_wait is not None:
                told, tell = True, TELL_EVERY
                on_wait(self.queue.place(self))


def _run_each(
    tickets: Sequence[_Ticket], run: Callable[[Hashable, list[Any]], Sequence[Any]]
) -> None:
    """Run tickets together; where that fails each alone, so that one spoils no other's."""
    try:
        found = run(tickets[0].key, [ticket.item for ticket in tickets])
        for ticket, result in zip(tickets, found, strict=True):
            ticket.result = result
    except Exception as error:
        if len(tickets) == 1:
            tickets[0].error = error
            return
        for ticket in tickets:
            _run_each([ticket], run)
