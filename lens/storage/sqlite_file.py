"""A SQLite file that several processes read and write: one transaction at a time.

The journal is SQLite's own for rollbacks, not its write-ahead log: a file is changed to that log,
and the log taken away by whoever closes the file last, without waiting for others, who are refused
at once however long they would wait.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path


@contextmanager
def transaction(
    file: Path, *, patience: float, reading: bool = False, pragmas: Sequence[str] = ()
) -> Iterator[sqlite3.Connection]:
    """The open file; what is changed is kept when the block ends, and undone when it raises.

    Args:
        file: of SQLite; made where it is not there.
        patience: seconds to wait for another process.
        reading: nothing is changed, so others may read meanwhile, and a disk that is full or
            read-only does for it.
        pragmas: settings of the connection, "synchronous = OFF".

    Raises:
        sqlite3.OperationalError: others held it for longer, or the disk is full or read-only.
        sqlite3.DatabaseError: it is damaged, or no such file.
    """
    with closing(sqlite3.connect(file, timeout=patience, isolation_level=None)) as base:
        with suppress(sqlite3.OperationalError):  # later, where others have it open
            base.execute("PRAGMA journal_mode = DELETE")  # of a file that still has such a log
        for pragma in pragmas:
            base.execute(f"PRAGMA {pragma}")
        base.execute("BEGIN" if reading else "BEGIN IMMEDIATE")
        with base:
            yield base
