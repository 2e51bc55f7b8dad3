"""Notes on features: in the file of those on experts, and gone with them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lens.errors import LensError
from lens.storage import feature_notes
from lens.storage.expert_notes import ExpertNote, NoteBook
from lens.storage.feature_notes import FeatureNote, FeatureNotes, as_json

ANN, BOB = "a" * 64, "b" * 64
NOTE = FeatureNote("d" * 64, 4, 120, "endings'); DROP TABLE", ("german", "<b>"), "a\nnote", True)


@pytest.fixture
def notes(tmp_path) -> FeatureNotes:
    return FeatureNotes(NoteBook(tmp_path / "notes"))


def told(notes: FeatureNotes, owner: str = ANN) -> list[FeatureNote]:
    return [replace(note, changed=0.0) for note in notes.of(owner)]


def test_a_note_is_read_back_by_its_owner_alone_and_replaced_by_the_next(notes):
    assert notes.of(ANN) == [] and not notes.book.folder.exists()
    notes.keep(ANN, NOTE)
    assert told(FeatureNotes(NoteBook(notes.book.folder))) == [NOTE]
    assert notes.of(BOB) == [] and notes.of(ANN, "e" * 64) == []
    notes.keep(ANN, replace(NOTE, note="", tags=("two words",), pinned=False))
    assert told(notes) == [replace(NOTE, note="", tags=("two", "words"), pinned=False)]
    assert json.loads(as_json(notes.of(ANN)))[0]["feature"] == 120
    notes.keep(ANN, FeatureNote("d" * 64, 4, 120))
    assert notes.of(ANN) == []


def test_they_go_with_all_of_an_owner_and_after_their_days(notes):
    notes.book.keep(ANN, ExpertNote("m", 0, 1, "L0·E1", "name"))
    for owner in (ANN, BOB):
        notes.keep(owner, NOTE)
    notes.book.delete_all(ANN)
    assert notes.of(ANN) == [] == notes.book.of(ANN) and told(notes, BOB) == [NOTE]
    changed = notes.of(BOB)[0].changed
    notes.book.sweep(2, now=changed + 1.9 * 86400)
    assert notes.of(BOB)
    notes.book.sweep(2, now=changed + 2.1 * 86400)
    assert notes.of(BOB) == []


def test_space_of_one_person_is_bounded(notes, monkeypatch):
    monkeypatch.setattr(feature_notes, "NOTES_OF_ONE", 1)
    notes.keep(ANN, NOTE)
    notes.keep(ANN, replace(NOTE, name="other"))
    with pytest.raises(LensError, match="as many as are kept"):
        notes.keep(ANN, replace(NOTE, feature=1))
    for change in ({"name": "x" * 61}, {"note": "x" * 4001}, {"tags": ("x" * 1300,)}):
        with pytest.raises(LensError, match="at most"):
            notes.keep(ANN, replace(NOTE, **change))
