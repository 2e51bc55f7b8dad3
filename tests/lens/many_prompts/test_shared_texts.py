"""Texts shared by a link: found by their id alone, bounded, set aside where damaged."""

from __future__ import annotations

import errno
import json
import os
import stat
import time

import pytest

from lens.errors import LensError
from lens.many_prompts.retention import DAY
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.shared_texts import NoTextError, SharedTexts
from tests.lens.many_prompts.run_making import OTHER, OWNER

TEXTS = {"prompt": "a — b\n<b>", "second_prompt": ""}


@pytest.fixture
def store(tmp_path) -> SharedTexts:
    return SharedTexts(tmp_path / "runs" / "texts")


def test_a_text_is_found_by_its_id_as_it_was_written(store):
    made = store.create(OWNER, "row", TEXTS)
    assert SharedTexts(store.folder).get(made.id) == made
    assert made.texts == TEXTS and len(made.id) == 22
    (file,) = store.folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert OWNER in file.read_text()  # the hash of the key, never the key


@pytest.mark.parametrize("bad", ["", "..", "a" * 21, "../" + "a" * 19, "a" * 22])
def test_other_ids_find_nothing_and_make_no_path(store, bad):
    store.create(OWNER, "row", TEXTS)
    with pytest.raises(NoTextError, match="no text under this link"):
        store.get(bad)


def test_only_its_owner_forgets_a_text(store):
    made = store.create(OWNER, "row", TEXTS)
    with pytest.raises(LensError, match="somebody else's"):
        store.delete(made.id, OTHER)
    store.delete(made.id, OWNER)
    with pytest.raises(NoTextError):
        store.get(made.id)
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"{",
            b"[]",
            b'{"format_version": 2}',
            b"\xff\xfe",
            b'{"format_version": 1, "id": 3}',
        ),
        b"[" * 100_000,
    ],
)
def test_a_damaged_text_is_set_aside_and_said_to_be(store, content):
    made = store.create(OWNER, "row", TEXTS)
    (store.folder / f"{made.id}.json").write_bytes(content)
    with pytest.raises(LensError, match="damaged on this server, and was set aside"):
        store.get(made.id)
    with pytest.raises(NoTextError):
        store.get(made.id)
    (aside,) = store.folder.iterdir()
    assert aside.name.startswith("damaged-") and aside.name.endswith(f"-{made.id}.json")
    assert aside.read_bytes() == content


def test_a_text_under_anothers_id_is_refused(store):
    one, other = (store.create(OWNER, "row", TEXTS) for _ in range(2))
    os.replace(store.folder / f"{one.id}.json", store.folder / f"{other.id}.json")
    with pytest.raises(LensError, match="damaged"):
        store.get(other.id)


def test_texts_are_cleared_after_their_days_whole_or_damaged(store):
    made = store.create(OWNER, "row", TEXTS)
    (store.folder / "damaged-old.json").write_text("?")
    assert store.sweep(time.time() + 29 * DAY) == 0
    assert store.sweep(time.time() + 900 * DAY) == 0  # a clock that is ahead for a while
    assert store.sweep(time.time()) == 0
    assert len(os.listdir(store.folder)) == 2
    assert store.sweep(time.time() + 31 * DAY) == 0
    assert store.sweep(time.time() + 32.1 * DAY) == 2
    assert os.listdir(store.folder) == []
    with pytest.raises(NoTextError):
        store.get(made.id)
    file = store.folder / f"{made.id}.json"
    old = {"format_version": 1, **vars(made), "created": time.time() - 31 * DAY}
    file.write_text(json.dumps(old))
    with pytest.raises(NoTextError):  # also before anything sweeps
        store.get(made.id)


def test_a_text_that_cannot_be_read_for_a_while_is_not_set_aside(store, monkeypatch):
    made = store.create(OWNER, "row", TEXTS)

    def too_many(*_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as busy:
        busy.setattr("pathlib.Path.read_text", too_many)
        with pytest.raises(LensError, match="Too many open files.*Try again"):
            store.get(made.id)
    assert store.get(made.id) == made


def test_texts_are_bounded_in_number_and_in_length(tmp_path):
    store = SharedTexts(tmp_path, most=3, most_of_one=2)
    for _ in range(2):
        store.create(OWNER, "row", TEXTS)
    with pytest.raises(LensError, match="most that are kept for one person"):
        store.create(OWNER, "row", TEXTS)
    store.create(OTHER, "row", TEXTS)
    with pytest.raises(LensError, match="keeps no more shared texts"):
        store.create("3" * 64, "row", TEXTS)
    with pytest.raises(LensError, match="200,003 characters"):
        store.create(OWNER, "row", {"prompt": "x" * 200_003})


def test_runs_in_the_folder_above_take_texts_for_no_run(store):
    made = store.create(OWNER, "row", TEXTS)
    runs = RunStore(store.folder.parent)
    assert runs.runs_of(OWNER) == [] and runs.sweep(time.time() + 40 * DAY) == 0
    assert store.get(made.id) == made
