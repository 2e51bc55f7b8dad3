"""A reload brings back what a tab showed, and a link opens what it was made for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from grok import load
from pages.hosting import tabs
from pages.live.compare import examples as compare_examples
from pages.live.generate import examples as generate_examples
from pages.live.one_trace.examples import EXAMPLES, ID_EXAMPLES
from pages.live.running.prompt_form import SLUG, slug
from pages.live.session import shared_models
from pages.live.what_if import examples as what_if_examples
from pages.live.what_if import patching
from pages.shell import data_source
from tests.headline_words import told

IDS = "15, 27, 3, 42, 99, 256, 12, 7"
SMALL = Path(__file__).resolve().parents[3] / "data" / "tiny12"
KEY = {"owner_key": "k" * 43}


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    return SMALL


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GROK_LENS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def button(app, key: str):
    return app.button(key=key).click().run()


def run_here(app, mode: str, text: str):
    """The mode's own way to run a text."""
    if mode == "patch":
        app.text_area(key="clean").set_value(text)
        app.text_area(key="corrupt").set_value(text.replace("42", "44"))
    else:
        app.text_area(key="prompt").set_value(text)
    if mode == "compare":
        app.text_area(key="second_prompt").set_value(text.replace("42", "44"))
    if mode in ("inspect", "compare", "generate"):
        next(one for one in app.button if one.label == "Run").click()
    else:
        app.button(key={"one": "run_one", "every": "run_every", "patch": "run_patch"}[mode]).click()
    app.run()
    assert not app.exception and not app.error
    return app


ADDRESSES = {
    "inspect": {},
    "compare": {"mode": "compare"},
    "generate": {"mode": "generate", "new_tokens": "3"},
    "one": {"mode": "what_if", "question": "one"},
    "every": {"mode": "what_if"},
    "patch": {"mode": "what_if", "question": "patch", "regained": "kl"},
}


def address_of(app) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else value[0]
        for name, value in app.query_params.items()
    }


def seen(app) -> tuple:
    """The first line, the number of figures and the texts."""
    return (
        app.subheader[0].value,
        len(app.get("vega_lite_chart")),
        {box.key: box.value for box in app.text_area},
    )


@pytest.mark.parametrize("mode", ADDRESSES)
def test_a_reload_brings_back_prompt_and_result_and_runs_nothing(
    open_page, small_model, monkeypatch, mode
):
    app = run_here(open_page("live_routing", state=KEY, **ADDRESSES[mode]), mode, IDS)
    before = seen(app)
    monkeypatch.setattr(shared_models, "shared", None)
    again = open_page("live_routing", state=KEY, **address_of(app))
    assert not again.exception and not again.error
    assert seen(again) == before
    assert address_of(again) == address_of(app)


def test_nobody_else_gets_what_a_tab_holds_and_is_told_so(open_page, small_model):
    app = run_here(open_page("live_routing", state=KEY), "inspect", IDS)
    assert IDS not in str(address_of(app))
    other = open_page("live_routing", **address_of(app))
    assert not other.exception and any(tabs.GONE == one.value for one in other.info)
    assert "traces" not in other.session_state or not other.session_state["traces"]
    assert other.text_area(key="prompt").value != IDS
    assert "kept" not in other.query_params


def test_what_one_session_runs_later_is_not_another_tabs(open_page, small_model):
    app = run_here(open_page("live_routing", state=KEY), "inspect", IDS)
    first = address_of(app)
    again = open_page("live_routing", state=KEY, **first)
    run_here(again, "inspect", "5, 6")
    np.testing.assert_array_equal(app.session_state["traces"]["first"].tokens[:2], [15, 27])


def test_forgetting_takes_texts_and_results_away_for_good(open_page, small_model):
    app = run_here(open_page("live_routing", state=KEY), "inspect", IDS)
    held = address_of(app)
    button(app, "forget_tab")
    assert not app.exception and "kept" not in app.query_params
    assert app.text_area(key="prompt").value == "" and not app.get("vega_lite_chart")
    again = open_page("live_routing", state=KEY, **held)
    assert any(tabs.GONE == one.value for one in again.info)


def test_a_text_is_shared_by_choice_and_its_link_opens_it_with_its_result(
    open_page, small_model, own_folder
):
    app = run_here(open_page("live_routing", state=KEY, layer="3"), "inspect", IDS)
    assert "text" not in app.query_params and not own_folder.exists()
    app.session_state["layer"] = 3
    button(app, "share_text")
    assert "text" in app.query_params
    link = {name: text for name, text in address_of(app).items() if name != "kept"}
    other = open_page("live_routing", **link)
    assert not other.exception and not other.error
    np.testing.assert_array_equal(
        other.session_state["traces"]["first"].experts,
        load(SMALL).trace_routing([int(one) for one in IDS.split(",")]).experts,
    )
    assert other.text_area(key="prompt").value == IDS and other.session_state["layer"] == 3
    assert "unshare_text" not in {one.key for one in other.button}  # not the visitor's to forget
    button(app, "unshare_text")
    assert "text" not in app.query_params
    late = open_page("live_routing", **link)
    assert not late.exception and late.text_area(key="prompt").value == ""
    assert any("no text under this link" in one.value for one in late.toast)


def test_a_changed_text_is_no_longer_what_was_shared(open_page, small_model):
    app = run_here(open_page("live_routing", state=KEY), "inspect", IDS)
    button(app, "share_text")
    run_here(app, "inspect", "5, 6, 7")
    assert "text" not in app.query_params


TABLES = (
    ({"mode": "compare"}, compare_examples.TEXT_EXAMPLES, "A few ids"),
    ({"mode": "compare", "sides": "change"}, compare_examples.CHANGE_EXAMPLES, "A few ids"),
    ({"mode": "what_if", "question": "one"}, what_if_examples.EXAMPLES, "A repeat"),
    ({"mode": "what_if"}, what_if_examples.EXAMPLES, "Some ids"),
    ({"mode": "what_if", "question": "patch"}, patching.EXAMPLES, "One token differs"),
)


@pytest.mark.parametrize(("where", "table", "name"), TABLES)
def test_an_example_of_a_mode_opens_by_its_link_with_its_result(
    open_page, small_model, where, table, name
):
    app = open_page("live_routing", **where, example=slug(name))
    assert not app.exception and not app.error
    assert app.get("vega_lite_chart")
    shown = {key: text for key, text in address_of(app).items() if key != "kept"}
    assert shown == {**where, "example": slug(name)}  # what it chooses needs no word beside it


@pytest.mark.parametrize(
    "table", [*(table for _, table, _ in TABLES), generate_examples.EXAMPLES, ID_EXAMPLES, EXAMPLES]
)
def test_names_of_examples_in_the_address_are_told_apart(table):
    names = [slug(name) for name in table]
    assert len(set(names)) == len(names) and all(re.fullmatch(SLUG, name) for name in names)


def test_an_example_of_generate_opens_by_its_link(open_page):
    app = open_page("live_routing", mode="generate", example="arithmetic", new_tokens="5")
    assert not app.exception and not app.error
    assert "5 tokens generated" in told(app)
    assert app.session_state["sampling_seed"] == 0 and app.session_state["temperature"] == 0
    assert address_of(app)["new_tokens"] == "5" and "temperature" not in app.query_params


def test_what_differs_from_an_example_stands_beside_it_in_the_link(open_page):
    app = open_page("live_routing", mode="what_if", question="one", example="german", layer="0")
    assert not app.exception and not app.error
    shown = address_of(app)
    assert (shown["example"], shown["layer"], "expert" in shown) == ("german", "0", False)
    assert app.selectbox(key="layer").value == 0 and app.selectbox(key="expert").value == 7


def test_a_reload_of_an_example_keeps_what_it_chose(open_page, monkeypatch):
    app = open_page("live_routing", state=KEY, mode="what_if", question="one", example="german")
    monkeypatch.setattr(shared_models, "shared", None)
    again = open_page("live_routing", state=KEY, **address_of(app))
    assert not again.exception and not again.error and seen(again) == seen(app)
    assert again.selectbox(key="layer").value == 11 and again.selectbox(key="expert").value == 7
    assert address_of(again) == address_of(app)


def test_an_example_that_there_is_not_is_named(open_page):
    app = open_page("live_routing", mode="generate", example="nothing_such")
    assert not app.exception
    assert any("no example" in one.value and "nothing" in one.value for one in app.toast)


def test_a_text_far_too_long_is_refused_by_its_own_beginning(open_page, small_model):
    app = run_here(open_page("live_routing"), "inspect", IDS)
    app.text_area(key="prompt").set_value("9 " * 30_000)
    next(one for one in app.button if one.label == "Run").click()
    app.run()
    (error,) = app.error
    assert "“9 9 9" in error.value and "60,000 characters; at most 50,000" in error.value
    assert "GROK_LENS" not in error.value
    assert any("the last result" in one.value for one in app.caption)
