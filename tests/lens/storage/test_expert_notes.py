"""Notes on experts: kept whole, apart for each owner, and never lost with a damaged file."""

from __future__ import annotations

import csv
import io
import json
import threading
from dataclasses import replace

import pytest

from lens.errors import LensError
from lens.storage import expert_notes
from lens.storage.expert_notes import ExpertNote, NoteBook, as_csv, as_json

ANN, BOB = "a" * 64, "b" * 64
NOTE = ExpertNote("model", 2, 3, "L2·E3", "German <endings>", 'a "note"\nof two lines', True)


@pytest.fixture
def book(tmp_path) -> NoteBook:
    return NoteBook(tmp_path / "notes")


def told(book: NoteBook, owner: str = ANN) -> list[ExpertNote]:
    return [replace(note, changed=0.0) for note in book.of(owner)]


def test_a_note_is_read_back_as_it_was_written_by_its_owner_alone(book):
    book.keep(ANN, NOTE)
    assert told(NoteBook(book.folder)) == [NOTE]
    assert book.of(BOB) == []
    assert book.of(ANN, "another model") == []
    assert book.of(ANN)[0].changed > 1e9


def test_looking_makes_no_file(book):
    assert book.of(ANN) == []
    book.delete(ANN, "model", 2, 3)
    assert not book.folder.exists()


def test_a_second_note_takes_the_place_of_the_first_and_an_empty_one_takes_it_out(book):
    book.keep(ANN, NOTE)
    book.keep(ANN, replace(NOTE, note="new", pinned=False))
    assert told(book) == [replace(NOTE, note="new", pinned=False)]
    book.keep(BOB, NOTE)
    book.keep(ANN, ExpertNote("model", 2, 3, "L2·E3"))
    assert told(book) == [] and told(book, BOB) == [NOTE]


def test_a_damaged_file_is_set_aside_and_said(book):
    book.keep(ANN, NOTE)
    book.file.write_bytes(b"no database" * 100)
    again = NoteBook(book.folder)
    assert again.of(ANN) == []
    assert again.set_aside is not None
    assert again.set_aside.read_bytes().startswith(b"no database")
    again.keep(ANN, NOTE)
    assert told(again) == [NOTE]


@pytest.mark.parametrize("name", [b"CREATE TABLE notes", b"endings"])
def test_damaged_bytes_of_a_text_take_no_other_note_with_them(book, name):
    book.keep(ANN, replace(NOTE, layer=1, name="endings"))
    book.keep(ANN, replace(NOTE, layer=2, name="whole"))
    content = book.file.read_bytes()
    book.file.write_bytes(content.replace(name, name[:-4] + b"\x80\x80\xff\xfe"))
    again = NoteBook(book.folder)
    names = [note.name for note in again.of(ANN)]
    assert names == [] if again.set_aside else names[1:] == ["whole"]
    again.keep(ANN, replace(NOTE, layer=3))
    assert again.of(ANN)[-1].layer == 3


def test_writers_do_not_lose_each_others_notes(book):
    def write(owner: str) -> None:
        for layer in range(20):
            NoteBook(book.folder).keep(owner, replace(NOTE, layer=layer))

    threads = [threading.Thread(target=write, args=(owner,)) for owner in (ANN, BOB)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(book.of(ANN)) == len(book.of(BOB)) == 20


def test_a_text_too_long_and_too_many_notes_are_refused(book, monkeypatch):
    with pytest.raises(LensError, match="The name has 61 characters; at most 60 fit"):
        book.keep(ANN, replace(NOTE, name="n" * 61))
    monkeypatch.setattr(expert_notes, "NOTES_OF_ONE", 1)
    book.keep(ANN, NOTE)
    book.keep(ANN, replace(NOTE, note="changed"))
    with pytest.raises(LensError, match="as many as are kept for one person"):
        book.keep(ANN, replace(NOTE, layer=5))


def test_a_folder_that_cannot_be_written_says_which(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LensError, match="GROK_LENS_NOTES"):
        NoteBook(tmp_path / "file" / "notes").keep(ANN, NOTE)


def test_notes_are_taken_away_as_csv_and_json(book):
    book.keep(ANN, replace(NOTE, note="=1+1"))
    notes = book.of(ANN)
    (row,) = csv.DictReader(io.StringIO(as_csv(notes)))
    assert row["note"] == "'=1+1" and row["name"] == NOTE.name and row["label"] == "L2·E3"
    assert json.loads(as_json(notes))[0]["note"] == "=1+1"
    assert as_csv([]).startswith("model,layer,expert")


def test_the_folder_is_that_of_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("GROK_LENS_NOTES", str(tmp_path / "mine"))
    assert NoteBook().folder == tmp_path / "mine"
    monkeypatch.delenv("GROK_LENS_NOTES")
    assert NoteBook().folder.name == "notes"
