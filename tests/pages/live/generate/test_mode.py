"""Generating on the live page: what comes out, what a stop keeps, what is refused."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import pytest

from pages.live.generate import mode as generate_mode
from pages.live.generate import view
from pages.live.one_trace.mode import STATISTICS_FOLD
from pages.live.session import generation, prompts
from pages.shell import data_source
from tests.headline_words import told
from tests.pages.copied_code import check

IDS = "5, 17, 3, 42, 99, 256, 12, 7"
SMALL = Path(__file__).resolve().parents[3] / "data" / "tiny12"


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    return SMALL


def send(app, text: str):
    app.text_area(key="prompt").set_value(text)
    next(button for button in app.button if button.label == "Run").click()
    return app.run(timeout=300)


def opened(open_page, **query: str):
    return open_page("live_routing", mode="generate", **query)


def said(app) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


def test_generate_invites_a_beginning(open_page):
    app = opened(open_page)
    assert not app.exception and not app.error
    assert app.subheader[0].value == generate_mode.INVITATION


def test_the_text_and_its_routing_are_those_of_the_runner_with_the_same_seed(
    open_page, shown_figures
):
    from grok import load

    app = opened(open_page, new_tokens="50", temperature="0.9", top_p="0.8", sampling_seed="11")
    send(app, IDS)
    assert not app.exception and not app.error
    ids = [int(i) for i in IDS.split(",")]
    made = load(SMALL).generate(ids, max_new_tokens=50, temperature=0.9, top_p=0.8, seed=11)
    trace = app.session_state["traces"]["first"]
    np.testing.assert_array_equal(trace.tokens, made.trace.tokens)
    np.testing.assert_array_equal(trace.experts, made.trace.experts)
    assert trace.prompt_length == len(ids)
    assert trace.settings["seed"] == 11 and trace.settings["top_p"] == 0.8
    assert f"{len(made.new_tokens)} tokens generated after 8" in told(app)
    assert any(html.escape(made.text) in one.proto.body for one in app.get("html"))
    app.session_state[STATISTICS_FOLD] = True
    app.run()
    assert "turns of their borders" in said(app)
    assert "Stop" not in [button.label for button in app.button]
    codes = check(shown_figures, {"token_strip", "token_layer_map", "cell_probabilities"})
    assert "continued(" in codes["token_strip"]


def test_temperature_0_takes_the_likeliest_token_whatever_the_seed(open_page):
    found = []
    for seed in ("1", "2"):
        app = opened(open_page, new_tokens="6", temperature="0", sampling_seed=seed)
        found.append(send(app, IDS).session_state["traces"]["first"].tokens)
    np.testing.assert_array_equal(*found)


def test_a_run_that_was_cut_short_is_kept_as_far_as_it_came(open_page):
    from grok.cached import shared_model

    app = opened(open_page)
    model = shared_model(str(SMALL), "bfloat16")
    steps = model.stream([5, 17, 3], max_new_tokens=9, temperature=1.0, seed=2)
    going = generation.GenerationRun(
        model, {"max_new_tokens": 9, "temperature": 1.0, "seed": 2}, [next(steps) for _ in range(4)]
    )
    steps.close()
    going.ended.set()
    app.session_state[generation.RUNNING.key] = going
    app.run()
    assert not app.exception and not app.error
    assert going.cancelled.is_set()
    trace = app.session_state["traces"]["first"]
    assert trace.prompt_length == 3 and len(trace.tokens) == 6
    assert "Stopped after 4 of 9 tokens" in said(app)
    assert generation.RUNNING.key not in app.session_state
    assert model.queue.n_callers == 0


def cut_short(app):
    """A run of three tokens that another click has ended."""
    from grok.cached import shared_model

    model = shared_model(str(SMALL), "bfloat16")
    steps = model.stream([5, 17, 3], max_new_tokens=9)
    going = generation.GenerationRun(model, {"max_new_tokens": 9}, [next(steps) for _ in range(3)])
    steps.close()
    going.ended.set()
    app.session_state[generation.RUNNING.key] = going
    return going


def test_who_goes_to_inspect_meanwhile_finds_there_what_was_made(open_page):
    app = open_page("live_routing")
    cut_short(app)
    app.run()
    assert not app.exception
    assert len(app.session_state["traces"]["first"].tokens) == 5
    assert any("Save trace" in str(button.proto) for button in app.get("download_button"))


def test_a_run_cut_short_never_replaces_something_newer(open_page):
    app = send(opened(open_page, new_tokens="4", temperature="0"), "9, 9, 9, 9")
    newer = app.session_state["traces"]["first"]
    cut_short(app)
    app.run()
    assert app.session_state["traces"]["first"] is newer


def test_a_run_cut_short_before_its_first_token_leaves_nothing(open_page):
    app = opened(open_page)
    going = generation.GenerationRun()
    app.session_state[generation.RUNNING.key] = going
    app.run()
    assert not app.exception and going.cancelled.is_set()
    assert app.subheader[0].value == generate_mode.INVITATION


def test_more_tokens_than_the_context_holds_are_not_asked_for(open_page):
    app = opened(open_page, new_tokens="127", temperature="1")
    send(app, ", ".join(["5"] * 120))
    assert not app.exception and not app.error
    assert len(app.session_state["traces"]["first"].tokens) <= 128


@pytest.mark.parametrize(
    ("text", "message"), [("", "empty"), ("a, b", "no tokenizer"), ("5, 9999", "outside")]
)
def test_a_beginning_that_cannot_be_used_says_why_and_the_page_stays(open_page, text, message):
    app = send(opened(open_page), text)
    assert not app.exception
    assert any(message in error.value for error in app.error)
    assert app.subheader[0].value == generate_mode.INVITATION


def test_the_beginning_is_not_in_the_address_and_the_settings_are(open_page):
    app = send(opened(open_page, new_tokens="5", sampling_seed="4"), IDS)
    assert "17" not in str(app.query_params)
    assert app.query_params["sampling_seed"] in ("4", ["4"])


def test_tokens_are_shown_as_text_and_never_as_markup():
    shown = view.chips_html(["<script>alert(1)</script>", "b"], [np.array([4, 1])], first=0)
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert "E4 E1" in shown and "dashed" in shown


def test_a_made_text_reads_as_text_and_its_tokens_are_coloured_once():
    shown = view.prose_html("2 <", " b</p> & c\n")
    assert "2 &lt;" in shown and "<ins" in shown and " b&lt;/p&gt; &amp; c\n</ins>" in shown
    assert "background" not in shown


def test_a_long_text_is_shown_from_its_end():
    n = view.MOST_CHIPS + 30
    shown = view.chips_html([f"w{i}" for i in range(n)], [np.array([0])] * n, first=5)
    assert "… 30 tokens before" in shown and ">w29<" not in shown and ">w30<" in shown
    assert 'title="token 35"' in shown


def test_limits_of_the_prompt_hold_here_too(open_page, monkeypatch):
    monkeypatch.setenv(prompts.LIMIT_VARIABLE, "4")
    app = send(opened(open_page), IDS)
    assert any("at most 4" in error.value for error in app.error)


def test_a_loop_says_how_far_the_experts_go_round_with_it():
    once = np.array([[0, 1], [2, 3], [4, 5]])
    experts = np.concatenate([np.array([[6, 7]] * 2), np.tile(once, (4, 1))])[None]
    words = view.loop_note(experts, 3, 2)
    assert "From token 2 on the text repeats itself every 3 tokens" in words
    assert "one round apart share 100\u00a0%" in words
    assert "less than a round apart 0\u00a0%" in words
