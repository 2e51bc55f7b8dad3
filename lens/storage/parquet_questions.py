"""DuckDB opened for questions to the Parquet files of one folder, and for nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

MEMORY = "512MB"
THREADS = 2
KEPT = 8  # connections that wait for the next question; opening one takes longer than most answers
_one_opens = threading.Lock()


@contextmanager
def asking(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A cursor for a question to a folder's files, of a connection that is kept for the next one.

    Args:
        folder: see `reading_alone`.
    """
    import duckdb

    with _one_opens:
        cursor = _kept(folder, folder.resolve()).cursor()
    try:
        yield cursor
    except duckdb.Error:
        _kept.cache_clear()  # damaged bytes may have ended it
        raise
    finally:
        cursor.close()


@lru_cache(maxsize=KEPT)
def _kept(folder: Path, resolved: Path) -> duckdb.DuckDBPyConnection:
    return reading_alone(folder)


def reading_alone(folder: Path) -> duckdb.DuckDBPyConnection:
    """A connection in memory that may read a folder's files and nothing else.

    No other file, no network, no extension, no disk for what does not fit into `MEMORY`, and
    `THREADS` at most; a statement cannot change any of it.

    Args:
        folder: that may be read, by the name that is given and by the one that links lead to.
    """
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": THREADS,
            "memory_limit": MEMORY,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    names = [str(folder), str(folder.resolve())]
    connection.execute("SET allowed_directories = ?", [names])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection
