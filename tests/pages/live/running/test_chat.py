"""The chat template of a model's folder in the prompt form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "data" / "huggingface" / "qwen3_moe"


@pytest.fixture
def with_template(tmp_path, monkeypatch):
    """A function that gives the model a template and opens its form."""

    def of(template: str) -> None:
        shutil.copytree(FOLDER, tmp_path / "model")
        config = json.dumps({"chat_template": template})
        (tmp_path / "model" / "tokenizer_config.json").write_text(config)
        monkeypatch.setenv("GROK_LENS_CHECKPOINT", str(tmp_path / "model"))

    return of


def ran(open_page):
    app = open_page("live_routing")
    app.text_area(key="prompt").set_value("Hello")
    app.checkbox(key="as_chat").check()
    app.button(key="FormSubmitter:run-Run").click()
    return app.run(timeout=300)


def test_a_text_is_run_as_a_message_of_a_chat(open_page, with_template):
    with_template("User: {{ messages[0].content }} Model:")
    app = ran(open_page)
    assert not app.exception and not app.error
    (trace,) = app.session_state["traces"].values()
    assert "".join(trace.pieces).replace("▁", " ").strip() == "User: Hello Model:"


def test_a_template_that_fails_runs_nothing_and_says_why(open_page, with_template):
    with_template("{{ raise_exception('no such role') }}")
    app = ran(open_page)
    assert not app.exception
    assert "no such role" in app.error[0].value and "traces" not in app.session_state
