"""Slow numbers of a page: it is drawn without them, then they are made slice by slice.

A page asks for each with `get`, which answers at once: with the result, or with None
when it isn't known yet. At its end the page calls `run`, which makes what is missing for
a while and draws the page anew, so that early draws show while the others are made, and
a click in between loses no more than one of them. Results live in the caches of `lens.cached`;
what is remembered here is only which of them have been made, by this session or of late by anybody,
so that a second visitor's page is drawn whole at once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.shell.session_keys import SessionKey, SessionValue

Result = TypeVar("Result")
Key = tuple[Hashable, ...]

FINISHED = SessionValue[set[Key]](SessionKey.FINISHED)
# Seconds until the page is drawn with what there is by then, and between further drawings.
FIRST_SLICE, NEXT_SLICE = 0.7, 4.0
MOST_REMEMBERED = 5000
MOST_OF_A_KIND = 64  # that anybody's page has made: as many as the caches keep
# Kinds of results, the first part of their keys, that wait for all others.
LAST = ("questions",)


class Made:
    """Keys of the results that pages of this process made of late, some of each kind.

    A key holds the hash of the data and every choice that a result depends on.
    """

    def __init__(self, most_of_a_kind: int = MOST_OF_A_KIND) -> None:
        self.most_of_a_kind = most_of_a_kind
        self._lock = threading.Lock()
        self._kinds: defaultdict[Hashable, OrderedDict[Key, None]] = defaultdict(OrderedDict)

    def add(self, key: Key) -> None:
        """One more; the longest unseen of its kind is forgotten."""
        with self._lock:
            kind = self._kinds[key[0]]
            kind[key] = None
            kind.move_to_end(key)
            while len(kind) > self.most_of_a_kind:
                kind.popitem(last=False)

    def __contains__(self, key: Key) -> bool:
        with self._lock:
            known = key in self._kinds[key[0]]
            if known:
                self._kinds[key[0]].move_to_end(key)
            return known


MADE = Made()


@dataclass
class Deferred:
    """Slow results that one run of a page asked for.

    Attributes:
        missing: keys of those that are not made yet, and what makes each.
        asked: how many were asked for.
    """

    missing: list[tuple[Key, Callable[[], object]]] = field(default_factory=list)
    asked: int = 0

    def get(self, key: Key, make: Callable[[], Result], *, at_once: bool = False) -> Result | None:
        """The result of `make`, a cached function, if it has been made before; else None.

        What is quick can be made `at_once`.
        """
        if at_once:
            return make()
        self.asked += 1
        if key in FINISHED.kept(set) or key in MADE:
            return make()
        self.missing.append((key, make))
        return None

    def run(self, slot: DeltaGenerator, text: str = "Comparing with chance …") -> None:
        """Make what is missing for a while, show how far it is, and draw the page again."""
        if not self.missing:
            return
        finished = FINISHED.kept(set)
        if len(finished) > MOST_REMEMBERED:
            finished.clear()
        done = self.asked - len(self.missing)
        until = time.monotonic() + (NEXT_SLICE if done else FIRST_SLICE)
        for key, make in sorted(self.missing, key=lambda job: job[0][0] in LAST):
            slot.progress(done / self.asked, f"{text} {done} of {self.asked}")
            make()
            finished.add(key)
            MADE.add(key)
            done += 1
            if time.monotonic() > until:
                break
        st.rerun()
