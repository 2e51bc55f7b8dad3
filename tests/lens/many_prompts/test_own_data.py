"""All that is kept of one owner: in one archive, and gone from the disk."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from lens.errors import LensError
from lens.many_prompts import own_data
from lens.many_prompts.own_data import OwnData
from lens.many_prompts.prompt_lists import read_prompts
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.shared_texts import SharedTexts
from lens.storage.expert_notes import ExpertNote, NoteBook, kept_notes_days
from lens.storage.feature_notes import FeatureNote, FeatureNotes

ME, OTHER = "a" * 64, "b" * 64


def kept(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def stores(tmp_path):
    """A note, a run and a shared text of each of two people."""
    stores = (
        NoteBook(tmp_path / "notes"),
        RunStore(tmp_path / "runs", keep_days=0),
        SharedTexts(tmp_path / "texts", keep_days=0),
    )
    notes, runs, texts = stores
    for who, words in ((ME, "mine"), (OTHER, "theirs")):
        notes.keep(who, ExpertNote("m", 0, 1, "L0·E1", note=f"note {words}"))
        FeatureNotes(notes).keep(who, FeatureNote("d", 0, 1, note=f"feature {words}"))
        texts.create(who, "inspect", {"text": f"text {words}"})
        prompts = read_prompts(f"prompt {words}\nanother")
        runs.create(who, prompts, model_name="m", dtype="float32", n_experts=4).stop()
    return stores


def test_the_archive_holds_all_of_ones_own_and_nothing_of_others(stores):
    data = OwnData(ME, *stores)
    assert data.counts == (2, 1, 1)
    archive = zipfile.ZipFile(io.BytesIO(data.archive()))
    everything = b"".join(archive.read(name) for name in archive.namelist())
    for words in (b"note mine", b"feature mine", b"text mine", b"prompt mine"):
        assert words in everything
    assert b"theirs" not in everything
    assert json.loads(archive.read("texts.json"))[0]["texts"] == {"text": "text mine"}


def test_deleted_means_gone_from_the_disk_and_others_keep_theirs(stores, tmp_path):
    OwnData(ME, *stores).delete()
    assert OwnData(ME, *stores).counts == (0, 0, 0)
    assert OwnData(OTHER, *stores).counts == (2, 1, 1)
    left = kept(tmp_path)
    assert b"mine" not in left and b"note theirs" in left and b"prompt theirs" in left


def test_what_is_too_large_for_one_download_is_said(stores, monkeypatch):
    monkeypatch.setattr(own_data, "MOST_BYTES", 10)
    with pytest.raises(LensError, match="at most 10 are packed for one download"):
        OwnData(ME, *stores).archive()


def test_a_note_that_is_written_over_leaves_nothing_behind(tmp_path):
    notes = NoteBook(tmp_path)
    notes.keep(ME, ExpertNote("m", 0, 1, "L0·E1", note="the first words " * 50))
    notes.keep(ME, ExpertNote("m", 0, 1, "L0·E1", note="other"))
    assert b"the first words" not in kept(tmp_path)


def test_notes_that_nobody_changes_go_after_their_days(tmp_path, monkeypatch):
    notes = NoteBook(tmp_path)
    notes.keep(ME, ExpertNote("m", 0, 1, "L0·E1", note="old"))
    changed = notes.of(ME)[0].changed
    notes.sweep(0, now=changed + 1e9)
    notes.sweep(2, now=changed + 1.9 * 86400)
    assert len(notes.of(ME)) == 1
    notes.sweep(2, now=changed + 2.1 * 86400)
    assert notes.of(ME) == []
    monkeypatch.setenv("GROK_LENS_KEEP_NOTES_DAYS", "soon")
    with pytest.raises(LensError, match="found “soon”; expected days"):
        kept_notes_days()


def test_space_of_one_person_is_bounded(tmp_path):
    runs = RunStore(tmp_path, keep_days=0, bytes_of_one=100)
    prompts = read_prompts("one\n" * 40)
    runs.create(ME, prompts, model_name="m", dtype="float32", n_experts=4).stop()
    with pytest.raises(LensError, match="at most 100 are kept for one person"):
        runs.create(ME, prompts, model_name="m", dtype="float32", n_experts=4)
    runs.create(OTHER, prompts, model_name="m", dtype="float32", n_experts=4).stop()
