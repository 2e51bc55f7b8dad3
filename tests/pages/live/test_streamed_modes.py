"""Every mode of the Live routing page on a streamed model: nothing starts by itself, all answer."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pages.live.many import mode as many_mode
from pages.live.many.examples import ready_ids
from pages.live.one_trace import logit_lens
from pages.live.running import stream_choice
from pages.live.session import generation
from tests.headline_words import told
from tests.pages.live.streamed_page import (
    IDS,
    PATIENCE,
    SLOW,
    SMALL,
    TOKENS,
    Disk,
    asked,
    disk,
    ended,
    measured,
    press,
    running,
    said,
    streamed,
)

pytestmark = pytest.mark.usefixtures("streamed")
__all__ = ["disk", "streamed"]


def test_the_logit_lens_of_a_slow_model_waits_for_a_press_and_of_a_quick_one_does_not(
    open_page, monkeypatch
):
    app = ended(press(asked(open_page("live_routing")), "Trace this prompt"))
    assert "If the model ended after" in said(app)
    app.session_state[logit_lens.LENSES.key] = {}
    measured(monkeypatch, SLOW)
    app.run()
    assert "If the model ended after" not in said(app)
    assert not app.session_state[logit_lens.LENSES.key]
    app = ended(press(app, "Read the logit lens: about "))
    assert "If the model ended after" in said(app)


def test_generated_tokens_are_those_that_the_model_gives_alone(open_page):
    from grok import load

    app = open_page("live_routing", mode="generate", new_tokens="4", temperature="0")
    app.text_area(key="prompt").set_value(IDS)
    app = press(app, stream_choice.COST_FIRST)
    assert "4 passes over the weights" in said(app)
    app = ended(press(app, "Generate 4 tokens"))
    assert not app.exception and not app.error
    alone = load(SMALL, mode="streamed").generate(TOKENS, max_new_tokens=4, temperature=0.0)
    trace = app.session_state["traces"]["first"]
    assert trace.tokens.tolist() == alone.trace.tokens.tolist()
    assert app.session_state[generation.DONE.key].n_tokens == len(alone.new_tokens)


def test_a_stop_of_a_continuation_keeps_the_tokens_there_are(open_page, disk: Disk):
    disk.left = 10**9
    app = open_page("live_routing", mode="generate", new_tokens="40", temperature="1.0")
    app.text_area(key="prompt").set_value(IDS)
    app = press(press(app, stream_choice.COST_FIRST), "Generate 40 tokens")
    going, job = running(app)  # type: ignore[misc]
    until = time.monotonic() + PATIENCE
    while not going.passes:
        assert time.monotonic() < until and not job.state.ended
        time.sleep(0.005)
    disk.left = 0
    assert going.words().startswith("Token ")
    app = press(app.run(), "Stop")
    disk.open.set()
    app = ended(app)
    assert not app.exception and not app.error
    made = app.session_state[generation.DONE.key]
    assert 1 <= made.n_tokens < 40 and made.why == "stopped"
    assert "Stopped after" in said(app)


def test_a_change_of_expert_runs_nothing_by_itself(open_page):
    app = open_page("live_routing", mode="what_if", question="one", layer="3")
    app.text_area(key="prompt").set_value(IDS)
    app = press(app, stream_choice.COST_FIRST)
    app = ended(press(app, "Ban it and look"))
    assert not app.exception and not app.error
    before = app.session_state["what_if_one"]
    assert before.kl.shape[0] == 7
    app.selectbox(key="expert").set_value(5).run()
    assert running(app) is None and app.session_state["what_if_one"] is before
    assert "press Run" in said(app)


def test_many_prompts_say_what_they_cost_before_they_run_and_share_a_pass(
    open_page, monkeypatch, tmp_path
):
    monkeypatch.setenv("GROK_LENS_RUNS", str(tmp_path))
    app = open_page("live_routing", mode="many")
    app.text_area(key=many_mode.BOX).set_value(ready_ids().jsonl())
    app = press(app.run(), stream_choice.COST_FIRST)
    assert not app.exception and not app.error
    assert "120 tokens, 1 pass over the weights" in said(app)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    app = press(app, "Run these prompts: ")
    until = time.monotonic() + PATIENCE
    while "12 prompts, 120 tokens" not in told(app):
        assert time.monotonic() < until and not app.exception and not app.error
        time.sleep(0.2)
        app.run()


@pytest.mark.parametrize(
    ("query", "begin", "kept"),
    [
        ({"mode": "compare", "sides": "change"}, "Run it as it is and changed", "compared"),
        ({"mode": "what_if", "question": "every"}, "Run the sweep", "what_if_every"),
    ],
)
def test_the_other_questions_say_their_cost_and_then_answer(open_page, query, begin, kept):
    app = open_page("live_routing", **query)
    app.text_area(key="prompt").set_value("5, 17, 3, 42")
    app = press(app, stream_choice.COST_FIRST)
    assert running(app) is None
    app = ended(press(app, begin))
    assert not app.exception and not app.error
    assert app.session_state[kept]


def test_patches_of_a_streamed_model_say_their_cost_and_then_answer(open_page):
    app = open_page("live_routing", mode="what_if", question="patch", regained="kl")
    app.text_area(key="clean").set_value("5, 17, 3")
    app.text_area(key="corrupt").set_value("5, 18, 3")
    app = press(app, stream_choice.COST_FIRST)
    app = ended(press(app, "Run the sweep"))
    assert not app.exception and not app.error
    assert np.isfinite(app.session_state["what_if_patch"].sweep.values).all()
