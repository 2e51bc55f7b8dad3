"""What people type is in no log, however much is logged, in no address and in no figure."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import generate_latest

from lens.many_prompts.run_store import RunStore
from pages.live.many import runs
from pages.shell import data_source
from tests.pages.live.streamed_page import SMALL

IDS = "311 407 255 311"
WORDS = "zqmarker is no token id"
MODES = {"inspect": {}, "compare": {}, "what_if": {"question": "one"}, "generate": {}, "many": {}}


@pytest.fixture(autouse=True)
def small_model(monkeypatch, tmp_path):
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    monkeypatch.setattr(runs, "store", lambda: RunStore(tmp_path / "runs", keep_days=0))


def said(records, app) -> str:
    logged = "\n".join(f"{one.getMessage()} {one.exc_text or ''} {one.args}" for one in records)
    return f"{logged}\n{dict(app.query_params)}\n{generate_latest().decode()}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", [IDS, WORDS], ids=["a prompt", "no prompt of this model"])
def test_a_prompt_is_in_no_log_no_address_and_no_figure(open_page, caplog, mode, text):
    app = open_page("live_routing", mode=mode, **MODES[mode])
    for box in app.text_area:
        box.set_value(text)
    app.run()
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    next(one for one in app.button if one.label.startswith("Run")).click()
    app.run()
    for job in runs.jobs().under_way().values():
        assert job.wait(300).ended
    app.run()
    assert not app.exception
    told = said(caplog.records, app)
    for secret in ("311 407", "311, 407", "311,407", "311+407", "zqmarker"):
        assert secret not in told
