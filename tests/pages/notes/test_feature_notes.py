"""Pins, names, tags and notes on features: on cards, in the search, and beside their numbers."""

from __future__ import annotations

import json

import pytest

from grok.config import BUNDLED_DICTIONARIES
from lens.features.store import FeatureStore
from lens.storage.expert_notes import NoteBook
from lens.storage.feature_notes import FeatureNote, FeatureNotes
from pages.hosting import owner

HOSTILE = "<b>**x** [y](#z) $a$ :red[no]"
ME = "f" * 64


@pytest.fixture(scope="module")
def dictionary() -> str:
    return FeatureStore.open(BUNDLED_DICTIONARIES / "sae" / "features").summary().dictionary_sha256


@pytest.fixture(autouse=True)
def somebody(monkeypatch):
    monkeypatch.setattr(owner, "current", lambda: ME)


def kept() -> list[FeatureNote]:
    return FeatureNotes(NoteBook()).of(ME)


def opened(open_page, **query):
    app = open_page("features", dictionary="sae", **query)
    assert not app.exception and not app.error
    return app


def column(app, name):
    return list(next(one for one in app.dataframe if "mostly on" in one.value).value[name])


def test_what_is_written_on_a_card_is_kept_and_stands_there(open_page, dictionary):
    app = opened(open_page, feature="4-120")
    next(one for one in app.text_input if one.label == "Name of L4·F120").set_value(" ends  of it ")
    next(one for one in app.text_input if one.label == "Tags").set_value("syntax late syntax")
    next(one for one in app.text_area if one.label == "Note").set_value(HOSTILE)
    next(one for one in app.button if one.label == "Save").click().run()
    app.button(key="pin_feature").click().run()
    (note,) = kept()
    assert (note.dictionary, note.group, note.feature) == (dictionary, 4, 120)
    assert (note.name, note.tags, note.pinned) == ("ends of it", ("syntax", "late"), True)
    assert any(one.value == "**“ends of it”**" for one in app.markdown)
    assert any(one.proto.body.count("&lt;b&gt;**x** [y](#z)") for one in app.get("html"))
    app.button(key="feature_note_delete").click().run()
    assert [(one.name, one.tags, one.note, one.pinned) for one in kept()] == [("", (), "", True)]
    app.button(key="pin_feature").click().run()
    assert kept() == []


def test_features_are_found_again_by_pin_and_tag(open_page, dictionary):
    assert any("Nothing is noted" in one.value for one in opened(open_page, find="yours").info)
    book = FeatureNotes(NoteBook())
    for group, feature, name, tags, pinned in (
        (4, 120, "ends", ("late",), False),
        (2, 7, "", ("late", "odd"), True),
        (3, 9, HOSTILE, (), False),
    ):
        book.keep(ME, FeatureNote(dictionary, group, feature, name, tags, "why", pinned))
    book.keep(ME, FeatureNote("0" * 64, 1, 1, "of another dictionary"))
    app = opened(open_page, find="yours")
    assert sorted(column(app, "feature")) == ["L2·F7", f"L3·F9 · {HOSTILE}", "L4·F120 · ends"]
    which = app.selectbox(key="feature_kept")
    assert which.options == ["All that you noted", "Pinned", "#late", "#odd"]
    which.set_value("#late").run()
    assert sorted(column(app, "feature")) == ["L2·F7", "L4·F120 · ends"]
    assert set(column(app, "tags")) == {"late", "late odd"}
    app.selectbox(key="feature_kept").set_value("Pinned").run()
    assert column(app, "feature") == ["L2·F7"] and "late" not in json.dumps(dict(app.query_params))


def test_another_person_has_none_of_them(open_page, dictionary, monkeypatch):
    FeatureNotes(NoteBook()).keep(ME, FeatureNote(dictionary, 4, 120, "mine alone", (), "zebra"))
    monkeypatch.setattr(owner, "current", lambda: "e" * 64)
    app = opened(open_page, feature="4-120")
    said = [one.proto.body for one in [*app.markdown, *app.caption, *app.get("html")]]
    assert not any("mine alone" in one or "zebra" in one for one in said)


def test_a_name_stands_on_the_buttons_of_features_alike(open_page, dictionary):
    store = FeatureStore.open(BUNDLED_DICTIONARIES / "sae" / "features")
    group, feature, _ = store.card(4, 120).near[0]
    FeatureNotes(NoteBook()).keep(ME, FeatureNote(dictionary, group, feature, HOSTILE))
    app = opened(open_page, feature="4-120", about="like")
    label = app.button(key=f"near_{group}_{feature}").label
    assert r"\[y\]" in label and r"\*\*x" in label and r"\$a\$" in label


def test_notes_that_cannot_be_read_stop_no_page(open_page):
    book = NoteBook()
    book.folder.mkdir(parents=True)
    book.file.write_bytes(b"not a database at all" * 50)
    app = opened(open_page, feature="4-120")
    assert any("set aside as" in one.value for one in app.warning)
