"""Chat templates of a model that a server holds: rendered there, in the form as of a model here."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import uvicorn

import grok
from grok.errors import PromptError
from grok.serving.remote.bodies import Limits
from grok.serving.remote.client import RemoteModel
from grok.serving.remote.server import ModelServer, Opening
from grok.serving.shared_model import SharedModel
from tests.pages.conftest import bundled_data, open_page, served_before

__all__ = ["bundled_data", "open_page", "served_before"]

FOLDER = Path(__file__).resolve().parents[3] / "data" / "huggingface" / "qwen3_moe"
TEMPLATE = (
    "{% if messages[0].content == 'bad' %}{{ raise_exception('no such word') }}{% endif %}"
    "User: {{ messages[0].content }} Model:"
)
TOKEN = "a token of sixteen letters"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(FOLDER, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return SharedModel(grok.load(folder, mode="resident", mesh=(1, 1)))


@pytest.fixture(scope="module")
def url(model):
    opening = Opening(lambda told: model, lambda error: None)
    app = ModelServer({"bfloat16": opening}, TOKEN, Limits()).app
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    listening = server.config.bind_socket()
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def test_a_message_is_the_prompt_that_the_model_itself_makes_of_it(model, url):
    remote = RemoteModel(url, TOKEN)
    assert remote.has_chat_template
    assert remote.chat_prompt("Hello") == model.chat_prompt("Hello") == "User: Hello Model:"


def test_a_template_that_fails_is_refused_as_it_is_here(model, url):
    remote = RemoteModel(url, TOKEN)
    for asked in (model, remote):
        with pytest.raises(PromptError, match=r"fails on this message .*no such word.*; expected"):
            asked.chat_prompt("bad")


def test_the_form_offers_it_and_runs_the_prompt_that_the_server_made(url, open_page, monkeypatch):
    from grok import cached

    monkeypatch.setenv("GROK_LENS_MODEL_URL", url)
    monkeypatch.setenv("GROK_LENS_MODEL_TOKEN", TOKEN)
    monkeypatch.setattr(cached, "shared_model", None)  # no model is loaded here
    app = open_page("live_routing")
    app.text_area(key="prompt").set_value("bad")
    app.checkbox(key="as_chat").check()
    app.button(key="FormSubmitter:run-Run").click().run(timeout=300)
    assert not app.exception
    assert "no such word" in app.error[0].value and "traces" not in app.session_state
    app.text_area(key="prompt").set_value("Hello")
    app.button(key="FormSubmitter:run-Run").click().run(timeout=300)
    assert not app.exception and not [error.value for error in app.error]
    (trace,) = app.session_state["traces"].values()
    assert "".join(trace.pieces).replace("▁", " ").strip() == "User: Hello Model:"
