"""A streamed model on the Live routing page: what it costs first, then progress, stop, results."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from grok.checkpoints.grok1 import moe_norm_path, open_checkpoint, router_path
from grok.planning import machine
from lens.escaping import as_markdown
from pages.live.running import stream_choice, stream_progress
from pages.shell import data_source
from tests.headline_words import told
from tests.pages.live.streamed_page import (
    IDS,
    PATIENCE,
    RATES,
    SLOW,
    SMALL,
    TOKENS,
    as_resident,
    asked,
    disk,
    ended,
    measured,
    press,
    running,
    said,
    streamed,
    under_way,
)

pytestmark = pytest.mark.usefixtures("streamed")
__all__ = ["disk", "streamed"]


# --- before anything starts -------------------------------------------------------------


def test_the_page_says_first_how_the_model_runs_and_starts_nothing_by_itself(open_page):
    app = open_page("live_routing")
    assert not app.exception and not app.error
    words = said(app)
    assert "This model is streamed from disk" in words
    assert as_markdown("GROK_LENS_MODE asks for it") in words
    assert "8.0 GB (GROK_LENS_MEMORY_GB)" in words
    assert {"resident", "streamed"} <= set(app.dataframe[0].value.columns)
    assert running(app) is None


def test_a_model_that_does_not_fit_is_streamed_and_the_page_says_why(open_page, monkeypatch):
    from grok.runner import loading as runner

    monkeypatch.delenv(stream_choice.MODE_VARIABLE)
    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(SMALL.parent / "tiny3"))
    monkeypatch.setattr(runner, "device_memory", lambda: 1)
    measured(monkeypatch, replace(RATES, device_bytes=1))
    app = open_page("live_routing")
    assert not app.exception and not app.error and not app.warning
    assert "so layers are streamed from disk" in said(app) and "(an estimate)" in said(app)


@pytest.mark.parametrize(
    ("folder", "budget", "message"),
    [
        ("tiny3", "0.5", "budget of 0.50 GB is too small to stream"),
        ("routers_only", "8", "With all of them this model is streamed from disk here"),
    ],
)
def test_a_model_that_can_be_run_in_no_way_says_what_to_do(
    open_page, monkeypatch, tmp_path, folder, budget, message
):
    from grok.runner import loading as runner

    source = SMALL.parent / "tiny3"
    if folder == "routers_only":
        source = routers_of(source, tmp_path)
    monkeypatch.delenv(stream_choice.MODE_VARIABLE)
    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(source))
    monkeypatch.setenv(stream_choice.MEMORY_VARIABLE, budget)
    monkeypatch.setattr(runner, "device_memory", lambda: 1)
    app = open_page("live_routing")
    assert not app.exception and not app.error
    assert message in app.warning[0].value and "bundled model runs your prompts" in said(app)


def routers_of(checkpoint: Path, folder: Path) -> Path:
    """A checkpoint of which only what decides the routing was fetched."""
    whole = open_checkpoint(checkpoint)
    (folder / "ckpt-0").mkdir()
    shutil.copy(checkpoint / "config.json", folder / "config.json")
    for layer in range(whole.config.n_layers):
        for path in (router_path(layer), moe_norm_path(layer)):
            shutil.copy(whole.file(path), folder / "ckpt-0" / whole.file(path).name)
    return folder


def test_a_model_that_fits_runs_as_before_at_one_press(open_page, monkeypatch):
    monkeypatch.setenv(stream_choice.MODE_VARIABLE, "auto")
    app = open_page("live_routing")
    assert "streamed" not in said(app)
    app.text_area(key="prompt").set_value(IDS)
    app = press(app, "Run")
    assert not app.error and "first" in app.session_state["traces"]


def test_a_prompt_shows_what_it_costs_and_waits_for_a_press(open_page, monkeypatch):
    measured(monkeypatch, SLOW)
    app = asked(open_page("live_routing"))
    assert not app.exception and not app.error
    words = said(app)
    assert "limited by the disk" in words and "8 tokens, 1 pass over the weights" in words
    assert "The time is an estimate" in words
    start = next(b for b in app.button if b.label.startswith("Trace this prompt: about "))
    assert start.label.endswith(" min") and not start.disabled
    app.run()
    assert running(app) is None and "traces" not in app.session_state


def test_a_machine_measured_while_it_was_busy_can_be_measured_again(open_page, monkeypatch):
    monkeypatch.setattr(machine, "rates", lambda checkpoint, architecture: SLOW)
    app = open_page("live_routing")
    assert "about 3 min (an estimate)" in said(app)
    monkeypatch.setattr(machine, "rates", lambda checkpoint, architecture: RATES)
    assert "about 3 min" in said(app.run())
    assert "less than 0.1 s (an estimate)" in said(press(app, "Measure again"))


def test_what_is_not_started_can_be_put_away(open_page):
    app = press(asked(open_page("live_routing")), "Not now")
    assert stream_progress.REQUEST.key not in app.session_state
    assert not any(b.label.startswith("Trace this") for b in app.button)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "empty"), ("5, seven", "no tokenizer"), ("5 " * 600, "at most 512")],
)
def test_a_prompt_that_cannot_be_run_says_why_before_a_model_is_read(open_page, prompt, message):
    app = asked(open_page("live_routing"), prompt)
    assert not app.exception and any(message in error.value for error in app.error)
    assert stream_progress.REQUEST.key not in app.session_state


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (stream_choice.MODE_VARIABLE, "disk", "expected auto, resident or streamed"),
        (stream_choice.MEMORY_VARIABLE, "much", "expected the GB"),
        (stream_choice.MEMORY_VARIABLE, "-8", "expected the GB"),
        (stream_choice.MEMORY_VARIABLE, "nan", "expected the GB"),
        (stream_choice.MEMORY_VARIABLE, "0.1", "takes the budget from GROK_LENS_MEMORY_GB"),
    ],
)
def test_a_setting_that_cannot_be_is_explained(open_page, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    app = open_page("live_routing")
    assert not app.exception
    assert any(as_markdown(message) in error.value for error in app.error)


# --- a run ------------------------------------------------------------------------------


def test_streamed_prompts_share_a_pass_and_go_to_the_experts_of_the_resident_model(open_page):
    from grok import load

    app = asked(open_page("live_routing"), second="5, 17, 4")
    assert "11 tokens, 1 pass over the weights" in said(app)
    app = ended(press(app, "Trace both prompts"))
    assert not app.exception and not app.error
    kept = app.session_state["traces"]
    model = load(SMALL, mode="resident")
    as_resident(kept["first"], model.trace_routing(TOKENS))
    as_resident(kept["second"], model.trace_routing([5, 17, 4]))
    assert "Of 8 tokens" in told(app)


def test_a_run_tells_its_layer_its_time_left_and_what_it_has_read(open_page, disk):
    app = press(asked(open_page("live_routing")), "Trace this prompt")
    going = under_way(app)
    words = going.words()
    assert words.startswith("Layer 1 of 12 · ") or words.startswith("Layer 2 of 12 · ")
    assert " left · " in words and words.endswith(" read")
    assert 0 < going.fraction < 0.5
    app.run()
    assert not app.exception
    assert any(button.label == "Stop" for button in app.button)
    assert next(b for b in asked(app, "5, 6").button if b.label.startswith("Trace")).disabled
    disk.open.set()
    assert "first" in ended(app).session_state["traces"]


def test_a_run_is_seen_and_stopped_in_a_mode_that_starts_none(open_page, disk):
    app = press(asked(open_page("live_routing")), "Trace this prompt")
    under_way(app)
    app.session_state["mode"] = "compare"
    app.session_state["sides"] = "traces"
    app.run()
    assert not app.exception
    assert "**Trace this prompt**" in said(app)
    app = press(app, "Stop")
    disk.open.set()
    assert "Stopped after layer" in said(ended(app))


def test_a_stop_ends_the_pass_says_so_and_leaves_the_model_to_the_next(open_page, disk):
    app = press(asked(open_page("live_routing")), "Trace this prompt")
    under_way(app)
    app = press(app.run(), "Stop")
    disk.open.set()
    app = ended(app)
    assert "Stopped after layer" in said(app) and "traces" not in app.session_state
    app = ended(press(asked(app), "Trace this prompt"))
    assert "first" in app.session_state["traces"] and "Stopped" not in said(app)


def test_a_disk_that_fails_in_mid_pass_is_explained_and_the_page_goes_on(open_page, disk):
    app = press(asked(open_page("live_routing")), "Trace this prompt")
    under_way(app)
    disk.fails = True
    disk.open.set()
    app = ended(app)
    assert not app.exception
    assert any("cannot be read" in e.value and "Check the disk" in e.value for e in app.error)
    disk.fails = False
    assert "first" in ended(press(asked(app), "Trace this prompt")).session_state["traces"]


def test_who_comes_second_is_told_the_place_and_about_how_long(open_page, disk):
    first = press(asked(open_page("live_routing")), "Trace this prompt")
    under_way(first)
    second = press(asked(open_page("live_routing"), "5, 17, 3"), "Trace this prompt")
    going, _ = running(second)  # type: ignore[misc]
    until = time.monotonic() + PATIENCE
    while not going.waiting.place:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert going.words().startswith("In the queue at place 1: 1 run ahead, ")
    disk.open.set()
    for app in (first, second):
        assert "first" in ended(app).session_state["traces"]
