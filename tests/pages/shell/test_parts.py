"""Parts of an open page are for those alone who are still let in."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import streamlit as st

from pages.access import persons, settings
from pages.access.persons import Person
from pages.shell import parts

PAGES = Path(parts.__file__).parents[1]


class Redrawn(Exception):  # noqa: N818, what Streamlit raises is no error either
    """The whole page is drawn."""


def test_a_part_is_not_drawn_once_a_sign_in_has_ended(monkeypatch):
    def rerun() -> None:
        raise Redrawn

    for name in settings.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GROK_LENS_ACCESS", "signed-in")
    monkeypatch.setattr(st, "rerun", rerun)
    drawn = parts.inside_alone(lambda cell: f"{cell}, drawn")
    since = time.time()
    monkeypatch.setattr(persons, "current", lambda: Person("ann", "ann@a.org", since))
    assert drawn("a cell") == "a cell, drawn"
    since -= 13 * 3600
    with pytest.raises(Redrawn):
        drawn("a cell")


def test_no_part_is_made_past_this_check():
    texts = {file: file.read_text() for file in PAGES.rglob("*.py")}
    found = [file.name for file, text in texts.items() if "st.fragment(" in text]
    assert found == ["parts.py"] and sum("@parts.part(" in text for text in texts.values()) > 5
