"""The notes on features of the person who looks: read from the store, changed by a click."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lens.errors import LensError
from lens.storage.feature_notes import FeatureNote, FeatureNotes
from pages.hosting import owner
from pages.notes import kept

Own = Mapping[tuple[int, int], FeatureNote]
"""Notes by group and feature."""


def own(dictionary: str) -> Own:
    """The person's notes on the features of a dictionary; none where they cannot be read.

    Args:
        dictionary: its SHA-256.
    """
    return {(note.group, note.feature): note for note in _read(dictionary)}


def some() -> bool:
    """Whether the person noted anything on any feature."""
    return bool(_read(None))


def _read(dictionary: str | None) -> list[FeatureNote]:
    try:
        return FeatureNotes(kept.book()).of(owner.current(), dictionary)
    except LensError as error:
        kept.PROBLEM.set(str(error))
        return []


def names(notes: Own) -> dict[tuple[int, int], str]:
    """Names that the person gave to features, by group and feature."""
    return {place: note.name for place, note in notes.items() if note.name}


def keep(note: FeatureNote) -> None:
    """Keep a note, cut of blanks around its texts; for a callback."""
    clean = replace(note, name=" ".join(note.name.split()), note=note.note.strip())
    try:
        FeatureNotes(kept.book()).keep(owner.current(), clean)
    except LensError as error:
        kept.PROBLEM.set(str(error))
