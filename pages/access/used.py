"""What each person has run of late, counted once for all web processes that share a folder.

    FOLDER/used.sqlite3    a row for each prompt of the last hour: person, when, tokens

A person is a hash, and no text stands there. Each count is one short transaction. Where the file
cannot be used this process counts in its own memory meanwhile, and says so in the log.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from grok.errors import BusyError
from grok.units import duration
from lens.storage.expert_notes import notes_folder
from lens.storage.sqlite_file import transaction

LOG = logging.getLogger(__name__)
FILE = "used.sqlite3"
MINUTE, HOUR = 60.0, 3600.0
PATIENCE = 5.0  # seconds to wait for another process
AHEAD = 60.0  # seconds; what was counted later than this from now was by a clock that was wrong
_TABLE = """CREATE TABLE IF NOT EXISTS used (
    person TEXT NOT NULL, at REAL NOT NULL, tokens INTEGER NOT NULL)"""
_INDEX = "CREATE INDEX IF NOT EXISTS by_person ON used (person, at)"


class Used:
    """The prompts of the last hour.

    Args:
        folder: that processes share; None takes that of the notes.
        now: seconds since 1970.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._now = folder, now
        self._lock = threading.Lock()
        self._own = sqlite3.connect(":memory:", check_same_thread=False)
        self._own.execute(_TABLE)
        self._failed = False

    @property
    def file(self) -> Path:
        return (notes_folder() if self._folder is None else Path(self._folder)) / FILE

    def charge(self, person: str, tokens: int, *, a_minute: int, an_hour: int) -> None:
        """Count a prompt of so many tokens.

        Args:
            person: any hash that is the same in all processes.
            tokens: of the prompt.
            a_minute: prompts that one may run in a minute; 0 is no limit.
            an_hour: tokens in an hour.

        Raises:
            BusyError: it would be more than one may; nothing is counted.
        """
        if not a_minute and not an_hour:
            return
        with self._lock:
            try:
                with self._opened() as base:
                    self._count(base, person, tokens, a_minute, an_hour)
                self._failed = False
                return
            except (sqlite3.Error, OSError) as error:
                self._met(error)
            with self._own:
                self._count(self._own, person, tokens, a_minute, an_hour)

    def _met(self, error: Exception) -> None:
        """Say once that the file is no use, and have a damaged one begun anew."""
        if not self._failed:
            LOG.warning(
                "%s: %s. Prompts of a person are counted by each process alone until it can be "
                "used.",
                *(self.file, type(error).__name__),
            )
        self._failed = True
        if not isinstance(error, sqlite3.OperationalError | OSError):
            with suppress(OSError):
                for file in self.file.parent.glob(f"{FILE}*"):
                    file.unlink()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The file, held by this process alone for as long as the block."""
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        pragmas = ["synchronous = OFF"]  # a count that a power cut loses is no loss
        with transaction(self.file, patience=PATIENCE, pragmas=pragmas) as base:
            base.execute(_TABLE)
            base.execute(_INDEX)
            yield base

    def _count(
        self, base: sqlite3.Connection, person: str, tokens: int, a_minute: int, an_hour: int
    ) -> None:
        now = self._now()
        base.execute("DELETE FROM used WHERE at <= ? OR at > ?", [now - HOUR, now + AHEAD])
        rows = base.execute(
            "SELECT at, tokens FROM used WHERE person = ? ORDER BY at", [person]
        ).fetchall()
        prompts = [(at, 1) for at, _ in rows if at > now - MINUTE]
        _check(prompts, a_minute, 1, now - MINUTE, "prompts within a minute")
        _check(rows, an_hour, tokens, now - HOUR, "tokens within an hour")
        base.execute("INSERT INTO used VALUES (?, ?, ?)", [person, now, tokens])


def _check(
    used: Sequence[tuple[float, int]], most: int, more: int, since: float, what: str
) -> None:
    """Refuse more than is left of a limit.

    Args:
        used: when and how much, the oldest first.
        most: that may be used since `since`; 0 is no limit.
    """
    if not most:
        return
    if more > most:
        raise BusyError(f"This takes {more:,} {what}; one person may run {most:,} here.")
    over = sum(n for _, n in used) + more - most
    for when, n in used if over > 0 else ():
        over -= n
        if over <= 0:
            seconds = max(when - since, 1.0)
            raise BusyError(
                f"You have run as much as one person may here: {most:,} {what}. Go on in "
                f"{duration(seconds)}.",
                retry_after=seconds,
            )
