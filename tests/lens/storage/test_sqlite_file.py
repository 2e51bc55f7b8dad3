"""A SQLite file that several processes use: each waits for its turn, from the first use on."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from lens.storage.sqlite_file import transaction

TABLE = "CREATE TABLE IF NOT EXISTS steps (n INTEGER)"
# A process that adds 10 rows to each file that it is told, opening it anew for each.
PROCESS = f"""
import sys
from pathlib import Path
from lens.storage.sqlite_file import transaction
print("ready", flush=True)
for line in sys.stdin:
    for n in range(10):
        with transaction(Path(line.strip()), patience=60) as base:
            base.execute({TABLE!r})
            base.execute("INSERT INTO steps VALUES (?)", [n])
    print("done", flush=True)
"""


def steps(file: Path) -> list[int]:
    with transaction(file, patience=60, reading=True) as base:
        return [n for (n,) in base.execute("SELECT n FROM steps ORDER BY n")]


def begun(file: Path, *, log: bool = False) -> Path:
    with closing(sqlite3.connect(file)) as base:
        if log:
            base.execute("PRAGMA journal_mode = WAL")
        base.execute(TABLE)
        base.commit()
    return file


def test_processes_that_open_new_files_at_once_wait_for_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    files = [tmp_path / f"{n}.sqlite3" for n in range(20)]
    for file in files:
        for one in both:
            one.stdin.write(f"{file}\n")
            one.stdin.flush()
        assert [one.stdout.readline() for one in both] == ["done\n"] * 2
    assert all(steps(file) == sorted([*range(10)] * 2) for file in files)
    assert [one.communicate()[0] for one in both] == ["", ""]


def test_what_was_changed_is_undone_where_the_block_raises(tmp_path: Path) -> None:
    file = begun(tmp_path / "one.sqlite3")
    with pytest.raises(KeyError), transaction(file, patience=60) as base:
        base.execute("INSERT INTO steps VALUES (1)")
        raise KeyError
    assert steps(file) == []


def test_one_who_reads_sees_the_same_until_the_end_and_keeps_no_reader_out(tmp_path: Path) -> None:
    file = begun(tmp_path / "one.sqlite3")
    with transaction(file, patience=60, reading=True) as base:
        assert base.execute("SELECT count(*) FROM steps").fetchone() == (0,)
        assert steps(file) == []
        writer = threading.Thread(target=_add, args=(file,))
        writer.start()
        assert base.execute("SELECT count(*) FROM steps").fetchone() == (0,)
    writer.join()
    assert steps(file) == [1]


def _add(file: Path) -> None:
    with transaction(file, patience=60) as base:
        base.execute("INSERT INTO steps VALUES (1)")


def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    file = begun(tmp_path / "one.sqlite3")
    with transaction(file, patience=60), pytest.raises(sqlite3.OperationalError, match="locked"):
        with transaction(file, patience=0):
            pass


def test_a_file_with_a_write_ahead_log_is_read_whole_and_loses_the_log(tmp_path: Path) -> None:
    file = begun(tmp_path / "one.sqlite3", log=True)
    with closing(sqlite3.connect(file)) as other:
        other.execute("INSERT INTO steps VALUES (1)")
        other.commit()
        assert steps(file) == [1]  # while somebody has the log open
        _add(file)
    assert steps(file) == [1, 1]
    assert file.read_bytes()[18:20] == b"\x01\x01"  # its header says: no such log
    assert [one.name for one in tmp_path.iterdir()] == [file.name]
