"""What the tabs of browsers hold, in the server's memory: found again by id and owner.

Nothing of it reaches the disk. It is bounded in number, in size and in time; who stays away
longest goes first.
"""

from __future__ import annotations

import dataclasses
import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

HOURS = 24
MOST = 400
MOST_OF_ONE = 12
MAX_BYTES = 2**28
MAX_ENTRY = 2**26
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
ID = r"[A-Za-z]{22}"


def new_id() -> str:
    """An id that nobody guesses: 22 letters, 125 bits."""
    return "".join(secrets.choice(LETTERS) for _ in range(22))


@dataclass
class _Entry:
    owner: str
    values: Mapping[str, Any]
    n_bytes: int
    seen: float


class Shelf:
    """Values by the id of a tab.

    Args:
        most: entries in all.
        most_of_one: entries of one owner.
        max_bytes: of all entries together.
        max_entry: of one entry.
        hours: that an entry stays after it was last put or got.
        now: seconds of a clock.
    """

    def __init__(
        self,
        *,
        most: int = MOST,
        most_of_one: int = MOST_OF_ONE,
        max_bytes: int = MAX_BYTES,
        max_entry: int = MAX_ENTRY,
        hours: float = HOURS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.most_of_one = most, most_of_one
        self.max_bytes, self.max_entry = max_bytes, max_entry
        self.seconds = hours * 3600
        self._now = now
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # the longest unseen first
        self._lock = threading.Lock()

    def put(self, tab: str, owner: str, values: Mapping[str, Any]) -> bool:
        """Keep values in place of the tab's earlier ones.

        Returns:
            False where they are too large, so that nothing is kept, or the tab is another's.
        """
        n_bytes = size_of(values)
        with self._lock:
            before = self._entries.get(tab)
            if before is not None and not secrets.compare_digest(before.owner, owner):
                return False
            self._entries.pop(tab, None)
            if n_bytes > self.max_entry:
                return False
            self._entries[tab] = _Entry(owner, dict(values), n_bytes, self._now())
            self._make_room(owner)
            return True

    def get(self, tab: str, owner: str) -> Mapping[str, Any] | None:
        """The values of a tab, where this owner has put them and they are still kept."""
        with self._lock:
            self._make_room(owner)
            entry = self._entries.get(tab)
            if entry is None or not secrets.compare_digest(entry.owner, owner):
                return None
            entry.seen = self._now()
            self._entries.move_to_end(tab)
            return entry.values

    def drop(self, tab: str, owner: str) -> None:
        """Forget what this owner's tab held."""
        with self._lock:
            entry = self._entries.get(tab)
            if entry is not None and secrets.compare_digest(entry.owner, owner):
                del self._entries[tab]

    @property
    def n_bytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.n_bytes for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def _make_room(self, owner: str) -> None:
        old = self._now() - self.seconds
        for tab in [tab for tab, entry in self._entries.items() if entry.seen < old]:
            del self._entries[tab]
        own = [tab for tab, entry in self._entries.items() if entry.owner == owner]
        for tab in own[: max(len(own) - self.most_of_one, 0)]:
            del self._entries[tab]
        while self._entries and (len(self) > self.most or self.n_bytes > self.max_bytes):
            self._entries.popitem(last=False)


def size_of(value: object, seen: set[int] | None = None) -> int:
    """Bytes of arrays and texts in nested dataclasses, mappings and sequences; each counts once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        return sys.getsizeof(value)
    return sys.getsizeof(value) + sum(size_of(part, seen) for part in parts)
