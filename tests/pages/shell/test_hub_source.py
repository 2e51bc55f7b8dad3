"""Routers fetched from the Hub in the app: shown, refused with a reason, or switched off."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lens.errors import LensError
from lens.extract import hub as extract_hub
from lens.extract.grok1 import extract_routers
from lens.extract.hub import Fetched
from pages.shell import hub_source

SMALL = Path(__file__).resolve().parents[2] / "data" / "tiny12"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.delenv(hub_source.SWITCH, raising=False)

    def extract(repository, *, progress=None):
        if repository != "tests/tiny":
            raise LensError(f"{repository}: there is no such repository.")
        progress(5_000, 20_000)
        progress(20_000, 20_000)
        return extract_routers(SMALL), Fetched(SMALL, repository, "0" * 40, 24, 20_000)

    monkeypatch.setattr(extract_hub, "extract_from_hub", extract)


def fetch(app, repository):
    app.text_input(key="hub_repository").set_value(repository)
    app.button(key="hub_fetch").click()
    return app.run(timeout=300)


def said(app):
    return " ".join(e.value for e in [*app.sidebar.caption, *app.sidebar.error])


def test_fetched_routers_are_shown_at_once_and_can_be_left(open_page):
    app = open_page("layers")
    before = said(app)
    app = fetch(app, "tests/tiny")
    assert not app.exception
    sha256 = extract_routers(SMALL).sha256[:12]
    assert sha256 in said(app) and sha256 not in before
    assert app.query_params["source"] in ("hub", ["hub"])
    app.selectbox(key="source").set_value("bundled")
    app.run(timeout=300)
    assert sha256 not in said(app)


def test_what_the_hub_refuses_is_explained_and_the_data_stays(open_page):
    app = open_page("layers")
    shown = [caption.value for caption in app.sidebar.caption]
    app = fetch(app, "tests/other")
    assert not app.exception
    assert "no such repository" in said(app)
    assert hub_source.ROUTERS.key not in app.session_state
    assert [caption.value for caption in app.sidebar.caption] == shown
    assert "source" not in app.query_params


@pytest.mark.parametrize("value", ["off", "0", "No"])
def test_the_button_can_be_switched_off(open_page, monkeypatch, value):
    monkeypatch.setenv(hub_source.SWITCH, value)
    app = open_page("layers")
    assert not [button for button in app.button if button.key == "hub_fetch"]
    assert "lens.extract.hub" in sys.modules  # imported by this test, not by the page
