"""A checkpoint that goes away, or is replaced, while people look at it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from grok import cached
from grok.cached import shared_model
from pages.shell import data_source

DATA = Path(__file__).resolve().parents[1] / "data"
DO = "Give the folder that holds ckpt-0"


def shown(app) -> str:
    """The beginning of the hash of the routers that a page shows."""
    (said,) = [one.value for one in app.sidebar.caption if "SHA-256" in one.value]
    return said.split("`")[1]


@pytest.mark.parametrize("name", ["layers", "live_routing"])
def test_a_checkpoint_that_goes_away_or_is_replaced_is_said_to_be(
    open_page, monkeypatch, tmp_path, name
):
    folder = tmp_path / "model"
    shutil.copytree(DATA / "tiny3", folder)
    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(folder))
    app = open_page(name)
    first = shown(app)
    folder.rename(tmp_path / "gone")
    app.run()
    assert not app.exception
    assert any(DO in one.value for one in app.error)
    shutil.copytree(DATA / "tiny12", folder)
    app.run()
    assert not app.exception and not app.error
    assert shown(app) != first
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "gone", folder)
    assert shown(app.run()) == first


def test_prompts_are_run_by_the_checkpoint_that_is_there_now(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(DATA / "tiny3", folder)
    try:
        first = shared_model(str(folder), "float32", "streamed")
        assert shared_model(str(folder), "float32", "streamed") is first
        shutil.rmtree(folder)
        shutil.copytree(DATA / "tiny12", folder)
        assert shared_model(str(folder), "float32", "streamed").model.sha256 != first.model.sha256
    finally:
        cached._streamed.clear()
