"""What people write down about features: a name, tags, a note, a pin, beside those on experts."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lens.errors import LensError
from lens.storage.expert_notes import LONGEST_NAME, LONGEST_NOTE, NOTES_OF_ONE, NoteBook

MOST_TAGS = 20
LONGEST_TAGS = MOST_TAGS * LONGEST_NAME
_COLUMNS = 'dictionary, "group", feature, name, tags, note, pinned, changed'


@dataclass(frozen=True)
class FeatureNote:
    """What somebody keeps of one feature.

    Attributes:
        dictionary: SHA-256 of it, as `lens.features.Summary` has it.
        group, feature: its place there.
        name: a few words, also an explanation of one's own; empty for none.
        tags: single words.
        note: a text; empty for none.
        pinned: whether it is bookmarked.
        changed: seconds since 1970.
    """

    dictionary: str
    group: int
    feature: int
    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""
    pinned: bool = False
    changed: float = 0.0


class FeatureNotes:
    """The notes on features in a book.

    Args:
        book: whose file they are kept in; it deletes and sweeps them with its own.
    """

    def __init__(self, book: NoteBook) -> None:
        self.book = book

    def of(self, owner: str, dictionary: str | None = None) -> list[FeatureNote]:
        """The notes of one owner, on one dictionary or on all, by group and feature.

        Raises:
            LensError: the file cannot be read.
        """
        which, values = ("", [owner]) if dictionary is None else (
            " AND dictionary = ?", [owner, dictionary])  # fmt: skip
        rows = self.book.rows(
            "feature_notes",
            f"SELECT {_COLUMNS} FROM feature_notes WHERE owner = ?{which} "
            'ORDER BY dictionary, "group", feature',
            values,
        )
        return [
            FeatureNote(d, group, feature, name, tuple(tags.split()), note, bool(pinned), changed)
            for d, group, feature, name, tags, note, pinned, changed in rows
        ]

    def keep(self, owner: str, note: FeatureNote) -> None:
        """Keep a note in the place of the one there was; one that says nothing is taken out.

        Raises:
            LensError: a text is too long, there are too many, or the file cannot be written.
        """
        if not (note.name or note.note or note.pinned or note.tags):
            self.delete(owner, note.dictionary, note.group, note.feature)
            return
        tags = " ".join(tag for one in note.tags for tag in one.split())
        for what, text, most in (
            ("name", note.name, LONGEST_NAME),
            ("note", note.note, LONGEST_NOTE),
            ("list of tags", tags, LONGEST_TAGS),
        ):
            if len(text) > most:
                raise LensError(f"The {what} has {len(text):,} characters; at most {most:,} fit.")
        key = [owner, note.dictionary, note.group, note.feature]

        def write(base: sqlite3.Connection) -> None:
            (others,) = base.execute(
                "SELECT COUNT(*) FROM feature_notes WHERE owner = ? "
                'AND NOT (dictionary = ? AND "group" = ? AND feature = ?)',
                key,
            ).fetchone()
            if others >= NOTES_OF_ONE:
                raise LensError(
                    f"You have {others:,} notes on features, as many as are kept for one person. "
                    "Delete one that you no longer need."
                )
            row = [*key, note.name, tags, note.note, note.pinned, time.time()]
            marks = ", ".join("?" * len(row))
            base.execute(
                f"INSERT OR REPLACE INTO feature_notes (owner, {_COLUMNS}) VALUES ({marks})", row
            )

        self.book.change(write)

    def delete(self, owner: str, dictionary: str, group: int, feature: int) -> None:
        """Take out what is kept of one feature.

        Raises:
            LensError: the file cannot be written.
        """
        self.book.delete_rows(
            ["feature_notes"],
            'owner = ? AND dictionary = ? AND "group" = ? AND feature = ?',
            [owner, dictionary, group, feature],
        )


def as_json(notes: Sequence[FeatureNote]) -> str:
    """Notes as JSON, a list of objects."""
    return json.dumps([asdict(note) for note in notes], indent=1, ensure_ascii=False)
