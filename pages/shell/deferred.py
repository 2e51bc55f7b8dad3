"""Slow numbers of a page: it is drawn without them, then they are made slice by slice.

A page asks for each with `get`, which answers at once: with the result, or with None
when it isn't known yet. At its end the page calls `run`, which makes what is missing for
a while and draws the page anew, so that early draws show while the others are made, and
a click in between loses no more than one of them. Results live in the caches of `lens.cached`;
what is remembered here is only which of them a session has seen made.
"""

from __future__ import annotations

import time
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
# Kinds of results, the first part of their keys, that wait for all others.
LAST = ("questions",)


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
        if key in FINISHED.kept(set):
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
            done += 1
            if time.monotonic() > until:
                break
        st.rerun()
