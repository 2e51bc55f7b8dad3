"""The bundled model is made ready in the background, once a server, where that is wanted."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from grok.serving.jobs import Jobs
from pages.live.running import preload, stream_choice
from pages.live.session import shared_models
from pages.shell import data_source

SMALL = Path(__file__).resolve().parents[3] / "data" / "tiny12"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """A server on which nothing was started yet."""
    jobs, begun = Jobs(at_once=1, most=1), []
    monkeypatch.setattr(preload, "_jobs", lambda: jobs)
    monkeypatch.setattr(preload, "_begun", lambda: begun)
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    monkeypatch.delenv(preload.VARIABLE, raising=False)
    monkeypatch.delenv(stream_choice.MODE_VARIABLE, raising=False)
    return jobs


def test_it_is_started_once_and_says_while_it_goes_on(server, monkeypatch):
    calls, go_on = [], threading.Event()
    monkeypatch.setattr(preload, "make_ready", lambda job: (calls.append(job), go_on.wait()))
    preload.begin()
    preload.begin()
    assert preload.under_way()
    go_on.set()
    assert calls[0].wait(60).status == "done" and len(calls) == 1
    preload.begin()
    assert not preload.under_way() and len(calls) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (preload.VARIABLE, "off"),
        (stream_choice.MODE_VARIABLE, "streamed"),
        (data_source.CHECKPOINT_VARIABLE, str(SMALL)),
    ],
)
def test_nothing_is_loaded_where_it_is_off_or_another_model_comes_first(
    server, monkeypatch, name, value
):
    monkeypatch.setenv(name, value)
    preload.begin()
    assert not preload.under_way()


def test_a_prompt_of_that_length_finds_its_programs_compiled(server):
    from grok.engine.compiled import bucket

    job = server.start("here", preload.make_ready)
    assert job.wait(300).status == "done"
    model = shared_models.shared(shared_models.model_choices()["bundled"], "bfloat16", print)
    assert model.model.config.n_layers == 12 and bucket(preload.TOKENS) == preload.TOKENS
    found = model.trace(np.arange(1, 9))
    assert found.tokens.tolist() == list(range(1, 9))
