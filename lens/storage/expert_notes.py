"""What people write down about experts: a name, a note, a pin, in one SQLite file.

    FOLDER/notes.sqlite3    a row for each owner, model and expert; those on features beside them

Every change is one transaction, in one process as in several. A file that is damaged is set
aside under a name that says when, and a new one is begun; nothing is deleted.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from grok.files import cache_folder, set_aside
from lens.errors import LensError
from lens.storage import csv_text
from lens.storage.file_lock import FileLock
from lens.storage.sqlite_file import transaction

Result = TypeVar("Result")

FOLDER_VARIABLE = "GROK_LENS_NOTES"
KEEP_VARIABLE = "GROK_LENS_KEEP_NOTES_DAYS"
FILE = "notes.sqlite3"
DAY = 24 * 3600.0
LONGEST_NAME, LONGEST_NOTE = 60, 4000  # characters
NOTES_OF_ONE = 5000
PATIENCE = 10.0  # seconds to wait for another writer
_FORMULA = re.compile(r"[=+\-@\t\r]")
_TABLE = """CREATE TABLE IF NOT EXISTS notes (
    owner TEXT NOT NULL, model TEXT NOT NULL, layer INTEGER NOT NULL, expert INTEGER NOT NULL,
    label TEXT NOT NULL, name TEXT NOT NULL, note TEXT NOT NULL, pinned INTEGER NOT NULL,
    changed REAL NOT NULL, PRIMARY KEY (owner, model, layer, expert))"""
_OF_FEATURES = """CREATE TABLE IF NOT EXISTS feature_notes (
    owner TEXT NOT NULL, dictionary TEXT NOT NULL, "group" INTEGER NOT NULL,
    feature INTEGER NOT NULL, name TEXT NOT NULL, tags TEXT NOT NULL, note TEXT NOT NULL,
    pinned INTEGER NOT NULL, changed REAL NOT NULL,
    PRIMARY KEY (owner, dictionary, "group", feature))"""
_TABLES = {"notes": _TABLE, "feature_notes": _OF_FEATURES}
_COLUMNS = "model, layer, expert, label, name, note, pinned, changed"


@dataclass(frozen=True)
class ExpertNote:
    """What somebody keeps of one expert.

    Attributes:
        model: SHA-256 of its router set.
        layer: its row in the set.
        expert: its number in the layer.
        label: both as pages write them, "L2·E3".
        name: a few words; empty for none.
        note: a text; empty for none.
        pinned: whether it is listed on every page.
        changed: seconds since 1970.
    """

    model: str
    layer: int
    expert: int
    label: str
    name: str = ""
    note: str = ""
    pinned: bool = False
    changed: float = 0.0

    @property
    def title(self) -> str:
        """The label, with the name where there is one: "L2·E3 · German endings"."""
        return f"{self.label} · {self.name}" if self.name else self.label


class NoteBook:
    """The notes in a folder.

    Args:
        folder: where; None takes GROK_LENS_NOTES, else a folder beside the caches.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = notes_folder() if folder is None else Path(folder)
        self.set_aside: Path | None = None
        """The damaged file that was put out of the way since this book was opened."""

    @property
    def file(self) -> Path:
        return self.folder / FILE

    def of(self, owner: str, model: str | None = None) -> list[ExpertNote]:
        """The notes of one owner, of one model or of all, by layer and expert.

        Raises:
            LensError: the file cannot be read.
        """
        which, values = ("", [owner]) if model is None else (" AND model = ?", [owner, model])
        rows = self.rows(
            "notes",
            f"SELECT {_COLUMNS} FROM notes WHERE owner = ?{which} ORDER BY model, layer, expert",
            values,
        )
        return [
            ExpertNote(model, layer, expert, label, name, note, bool(pinned), changed)
            for model, layer, expert, label, name, note, pinned, changed in rows
        ]

    def keep(self, owner: str, note: ExpertNote) -> None:
        """Keep a note in the place of the one there was; one that says nothing is taken out.

        Raises:
            LensError: a text is too long, there are too many, or the file cannot be written.
        """
        if not (note.name or note.note or note.pinned):
            self.delete(owner, note.model, note.layer, note.expert)
            return
        for what, text, most in (
            ("name", note.name, LONGEST_NAME),
            ("note", note.note, LONGEST_NOTE),
        ):
            if len(text) > most:
                raise LensError(f"The {what} has {len(text):,} characters; at most {most:,} fit.")

        def write(base: sqlite3.Connection) -> None:
            (others,) = base.execute(
                "SELECT COUNT(*) FROM notes WHERE owner = ? "
                "AND NOT (model = ? AND layer = ? AND expert = ?)",
                [owner, note.model, note.layer, note.expert],
            ).fetchone()
            if others >= NOTES_OF_ONE:
                raise LensError(
                    f"You have {others:,} notes, as many as are kept for one person. Delete one "
                    "that you no longer need."
                )
            row = [owner, *asdict(note).values()]
            row[-1] = time.time()
            marks = ", ".join("?" * len(row))
            base.execute(f"INSERT OR REPLACE INTO notes (owner, {_COLUMNS}) VALUES ({marks})", row)

        self.change(write)

    def delete(self, owner: str, model: str, layer: int, expert: int) -> None:
        """Take out what is kept of one expert.

        Raises:
            LensError: the file cannot be written.
        """
        self.delete_rows(
            ["notes"],
            "owner = ? AND model = ? AND layer = ? AND expert = ?",
            [owner, model, layer, expert],
        )

    def delete_all(self, owner: str) -> None:
        """Take out everything of one owner.

        Raises:
            LensError: the file cannot be written.
        """
        self.delete_rows(_TABLES, "owner = ?", [owner])

    def sweep(self, keep_days: float, now: float | None = None) -> None:
        """Take out what nobody has changed for so many days; 0 keeps all.

        Raises:
            LensError: the file cannot be written.
        """
        if keep_days:
            before = (time.time() if now is None else now) - keep_days * DAY
            self.delete_rows(_TABLES, "changed < ?", [before])

    def delete_rows(self, tables: Iterable[str], condition: str, values: Sequence[object]) -> None:
        """Take out of some tables what a condition holds for; overwritten in the file.

        Raises:
            LensError: the file cannot be written.
        """

        def delete(base: sqlite3.Connection) -> None:
            for table in tables:
                base.execute(f"DELETE FROM {table} WHERE {condition}", values)

        if self.file.exists():
            self.change(delete)

    def rows(self, table: str, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """What a query of one table gives; nothing where the file or the table is not there yet.

        Raises:
            LensError: the file cannot be read.
        """
        if not self.file.exists():
            return []

        def read(base: sqlite3.Connection) -> list[tuple[Any, ...]]:
            named = base.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table])
            return base.execute(query, values).fetchall() if named.fetchone() else []

        return self._with_file(read, reading=True)

    def change(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Do some work on the open file, whole or not at all.

        Raises:
            LensError: the file cannot be written.
        """

        def write(base: sqlite3.Connection) -> None:
            for table in _TABLES.values():
                base.execute(table)
            work(base)

        self._with_file(write)

    def _with_file(
        self, work: Callable[[sqlite3.Connection], Result], *, reading: bool = False
    ) -> Result:
        """Work in one transaction; with a damaged file out of the way, once more."""
        for again in (True, False):
            try:
                if not reading:
                    self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                with transaction(
                    self.file, patience=PATIENCE, reading=reading, pragmas=["secure_delete = ON"]
                ) as base:
                    base.text_factory = _text
                    return work(base)
            except (sqlite3.OperationalError, OSError) as error:  # locked, full, not to be written
                raise LensError(
                    f"Notes cannot be kept in {self.folder}: {error}. Free the folder, or name "
                    f"another one in {FOLDER_VARIABLE}."
                ) from error
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # of its own message
                if not again:
                    raise LensError(
                        f"The file of notes in {self.folder} is damaged and cannot be set aside "
                        f"({error}). Make the folder writable, or name another one in "
                        f"{FOLDER_VARIABLE}."
                    ) from error
                self._put_aside()
        raise AssertionError("the second time returns or raises")

    def _put_aside(self) -> None:
        """Rename a damaged file with its log; another process may have done it meanwhile."""
        with FileLock(self.folder / "lock") as lock:
            lock.take(patience=PATIENCE)
            if not _damaged(self.file):
                return
            self.set_aside = set_aside(self.file)
            for log in self.folder.glob(f"{FILE}-*"):
                set_aside(log)


def notes_folder() -> Path:
    """The folder named by GROK_LENS_NOTES, else one beside the caches."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else cache_folder() / "notes"


def kept_notes_days() -> float:
    """Days for which notes are kept that nobody changes, of GROK_LENS_KEEP_NOTES_DAYS; 0: for ever.

    Raises:
        LensError: it is no number of days.
    """
    text = os.environ.get(KEEP_VARIABLE, "").strip() or "0"
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text):
        raise LensError(
            f"{KEEP_VARIABLE}: found “{text}”; expected days, 0 to keep notes for ever."
        )
    return float(text)


def as_json(notes: Sequence[ExpertNote]) -> str:
    """Notes as JSON, a list of objects."""
    return json.dumps([asdict(note) for note in notes], indent=1, ensure_ascii=False)


def as_csv(notes: Sequence[ExpertNote]) -> str:
    """Notes as CSV; what a spreadsheet would take for a formula begins with an apostrophe."""
    rows = [asdict(note) for note in notes]
    names = list(asdict(ExpertNote("", 0, 0, "")))
    return csv_text.table_csv({name: [_safe(row[name]) for row in rows] for name in names})


def _safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _damaged(file: Path) -> bool:
    try:
        with transaction(file, patience=PATIENCE, reading=True) as base:
            (verdict,) = base.execute("PRAGMA quick_check").fetchone()
            return bool(verdict != "ok")
    except sqlite3.OperationalError:
        return False
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return True


def _text(stored: bytes) -> str:
    """Text of a column; a damaged byte of it takes no other note with it."""
    return stored.decode("utf-8", "replace")
