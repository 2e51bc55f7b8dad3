"""Round robin by person: the round in which each turn that is waited for comes."""

from __future__ import annotations

from collections.abc import Hashable


class Rounds:
    """The round in which each person's next turn comes; all have one turn in a round."""

    def __init__(self) -> None:
        self._now = 0
        self._next: dict[Hashable, int] = {}

    def join(self, person: Hashable) -> int:
        """The round of one more turn of a person."""
        mine = max(self._now, self._next.get(person, 0))
        self._next[person] = mine + 1
        return mine

    def begin(self, number: int) -> None:
        """A turn of this round has begun; who has none left to come is forgotten."""
        self._now = max(self._now, number)
        self._next = {person: n for person, n in self._next.items() if n > self._now}

    def give_back(self, person: Hashable, number: int) -> None:
        """A turn of this round, and the person's later ones, will not be taken."""
        self._next[person] = min(self._next.get(person, number), number)
