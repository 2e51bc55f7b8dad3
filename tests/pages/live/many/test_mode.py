"""Many prompts: a run from the form to its finding, its link, its owner, and its ends."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path

import pytest

from grok.serving.jobs import Jobs
from lens.escaping import JOINER
from lens.many_prompts.run_export import run_zip
from lens.many_prompts.run_record import Run
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.run_words import Occurrence
from pages.hosting import owner
from pages.live.many import (
    mode as many_mode,
)
from pages.live.many import (
    runs as many_runs,
)
from pages.live.many import (
    traces as many_traces,
)
from pages.live.many import (
    words as many_words,
)
from pages.live.many.examples import TEXTS, ready_ids, ready_list
from pages.shell import data_source
from tests.headline_words import told
from tests.pages.copied_code import check

SMALL = Path(__file__).resolve().parents[3] / "data" / "tiny12"
FIGURES = {
    "labels": {"label_information", "label_lift", "label_load"},
    "words": {"word_map"},
    "many_information": {"many_information"},
    "many_order": {"many_repeats"},
}
TABS = ["labels", "words", "many_information", "many_order", "texts"]


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunStore:
    """A small model without a tokenizer, and runs in a folder of the test's own."""
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    monkeypatch.delenv(many_traces.TRACES_VARIABLE, raising=False)
    monkeypatch.delenv("GROK_LENS_KEEP_DAYS", raising=False)
    monkeypatch.setenv("GROK_LENS_RUNS", str(tmp_path / "runs"))
    return RunStore(tmp_path / "runs")


def all_runs(store: RunStore) -> list[Run]:
    return list(store._all())


def button(app, label: str):
    found = [one for one in app.button if one.label == label]
    assert found, f"no button {label}; there are {[one.label for one in app.button]}"
    return found[0]


def labels_of(app) -> list[str]:
    return [one.label for one in app.button]


def ended(store: RunStore) -> Run:
    """The only run of a store, once nothing works on it any more."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        (run,) = all_runs(store)
        if run.status != "running" and many_runs.jobs().get(run.id) is None:
            return run
        time.sleep(0.05)
    raise AssertionError("the run did not end")


def run_prompts(app, text: str):
    app.text_area(key=many_mode.BOX).set_value(text)
    app.run()
    button(app, "Run").click()
    return app.run()


@pytest.fixture
def finished(open_page, store):
    """An app that shows a finished run of the ready list."""
    app = run_prompts(open_page("live_routing", mode="many"), ready_ids().jsonl())
    assert not app.exception and not app.error
    ended(store)
    return app.run()


def test_prompts_run_in_the_background_and_labels_are_compared_beside_chance(finished, store):
    assert not finished.exception and not finished.error
    (run,) = all_runs(store)
    assert (run.status, run.n_prompts, run.n_tokens) == ("finished", 12, 120)
    assert run.by_label == {"counting": 6, "repeating": 6}
    head = told(finished)
    assert "12 prompts, 120 tokens, 2 labels." in head
    assert "permuted over prompts" in head
    assert list(finished.dataframe[0].value["label"]) == ["counting", "repeating"]


def test_the_address_holds_the_id_and_never_a_prompt(finished, store):
    (run,) = all_runs(store)
    address = {name: str(value) for name, value in finished.query_params.items()}
    assert address == {"mode": "many", "run": run.id}


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_of_a_run_opens_by_its_link(open_page, finished, store, shown_figures, tab):
    (run,) = all_runs(store)
    shown_figures.clear()
    app = open_page("live_routing", mode="many", run=run.id, seen=tab, first_tokens="1")
    assert not app.exception and not app.error
    assert "108 tokens" in told(app)
    check(shown_figures, {"label_map"} | FIGURES.get(tab, set()))


def test_who_has_the_link_looks_and_neither_lists_nor_changes(open_page, finished, store):
    assert "Open" in labels_of(finished) and "Delete for good" in labels_of(finished)
    (run,) = all_runs(store)
    other = open_page("live_routing", mode="many", run=run.id)
    assert "12 prompts, 120 tokens" in told(other)
    assert {"Open", "Delete for good", "Cancel", "Go on"}.isdisjoint(labels_of(other))
    stranger = open_page("live_routing", mode="many")
    assert stranger.subheader[0].value == many_mode.INVITATION
    assert "Open" not in labels_of(stranger)
    assert not any(run.id in str(one) for one in stranger.main)


def test_deleting_takes_a_run_away_from_everybody(open_page, finished, store):
    (run,) = all_runs(store)
    other = open_page("live_routing", mode="many", run=run.id)
    button(finished, "Delete for good").click()
    finished.run()
    assert all_runs(store) == []
    assert finished.subheader[0].value == many_mode.INVITATION
    assert "run" not in finished.query_params
    other.run()
    assert not other.exception
    assert "no run under this link" in other.warning[0].value


def test_links_that_lead_nowhere_say_so(open_page):
    app = open_page("live_routing", mode="many", run="A" * 22)
    assert not app.exception
    assert "no run under this link" in app.warning[0].value
    app = open_page("live_routing", mode="many", run="../../etc")
    assert not app.exception
    assert any("not whole" in one.value for one in app.toast)
    assert app.subheader[0].value == many_mode.INVITATION


def test_a_prompt_that_cannot_run_is_named_and_the_run_is_kept(open_page, store):
    app = run_prompts(open_page("live_routing", mode="many"), "1 2 3\nhello\n4")
    run = ended(store)
    assert run.status == "failed"
    assert run.problem.startswith("Prompt 2: This model has no tokenizer")
    app.run()
    assert "Prompt 2" in app.error[0].value
    assert {"Try again", "Delete for good"} <= set(labels_of(app))


def test_a_run_that_stopped_goes_on(open_page, store, monkeypatch):
    app = open_page("live_routing", mode="many")
    monkeypatch.setattr(many_runs, "_start", lambda choice, writing: writing._lock.release())
    app = run_prompts(app, ready_ids().jsonl())
    (run,) = all_runs(store)
    assert run.status == "stopped"
    assert "the program that ran it ended" in app.info[0].value
    monkeypatch.undo()
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    monkeypatch.setenv("GROK_LENS_RUNS", str(store.folder))
    button(app, "Go on").click()
    app.run()
    assert ended(store).status == "finished"
    assert "12 prompts, 120 tokens" in told(app.run())


def test_a_damaged_file_and_record_are_said_and_only_what_is_lost_is_run_again(
    open_page, finished, store
):
    (run,) = all_runs(store)
    words = told(finished)
    part, *_ = run.routing_files
    kept = (run.events / "tokens.parquet").stat().st_mtime_ns
    part.write_bytes(part.read_bytes()[:-40])
    (run.folder / "run.json").write_bytes(b"{half")
    for app in (open_page("live_routing", mode="many", run=run.id), finished.run()):
        warned = " ".join(one.value for one in app.warning)
        assert "A file of this run was damaged" in warned
        assert "record of this run was damaged" in warned
        assert not app.exception and not app.error
        assert ("Go on" in labels_of(app)) == (app is finished)  # who looks changes nothing
    button(finished, "Go on").click()
    finished.run()
    assert ended(store).status == "finished"
    assert told(finished.run()) == words and not finished.warning
    assert (run.events / "tokens.parquet").stat().st_mtime_ns == kept
    assert len(list(run.events.glob("damaged-*"))) == 1


def test_a_run_of_which_nothing_can_be_made_is_said_to_be_set_aside(open_page, finished, store):
    (run,) = all_runs(store)
    for name in ("run.json", "begun.json"):
        (run.folder / name).write_bytes(b"\0")
    RunStore(store.folder)  # as each ten minutes
    app = open_page("live_routing", mode="many", run=run.id)
    assert "was set aside; nothing of it was deleted" in app.warning[0].value
    assert any("1 run was damaged on this server" in one.value for one in app.caption)


def test_a_run_is_cancelled_where_it_is(open_page, store, monkeypatch):
    busy = Jobs(at_once=0)  # nobody's turn comes
    monkeypatch.setattr(many_runs, "jobs", lambda: busy)
    app = run_prompts(open_page("live_routing", mode="many"), "1 2 3")
    assert app.subheader[0].value == "1 prompt is being run."
    button(app, "Cancel").click()
    app.run()
    (run,) = all_runs(store)
    job = busy.get(run.id)
    assert job is None or job.wait(10).status == "cancelled"
    assert all_runs(store)[0].status == "cancelled"
    app.run()
    assert "was cancelled" in app.info[0].value


def test_a_server_with_too_much_to_do_keeps_the_prompts_in_the_box(open_page, store, monkeypatch):
    monkeypatch.setattr(many_runs, "jobs", lambda: Jobs(most=0))
    app = run_prompts(open_page("live_routing", mode="many"), "1 2 3")
    assert "Try again later" in app.error[0].value
    assert app.text_area(key=many_mode.BOX).value == "1 2 3"
    assert all_runs(store) == []


def test_a_list_that_cannot_be_read_is_explained_and_nothing_runs(open_page, store):
    app = open_page("live_routing", mode="many")
    app.text_area(key=many_mode.BOX).set_value("prompt,label\na,b,c")
    app.run()
    assert "line 2: 3 columns" in app.error[0].value
    assert button(app, "Run").disabled
    assert all_runs(store) == []


def test_the_column_of_labels_is_chosen_where_there_are_several(open_page):
    app = open_page("live_routing", mode="many")
    app.text_area(key=many_mode.BOX).set_value("prompt,label,language\n1,a,x\n2,a,y")
    app.run()
    assert any("labels: a (2)." in one.value for one in app.caption)
    app.selectbox(key="many_label_column").set_value("language")
    app.run()
    assert any("labels: x (1), y (1)." in one.value for one in app.caption)


def test_prompts_that_look_like_another_form_are_read_as_is_chosen(open_page):
    app = open_page("live_routing", mode="many")
    app.text_area(key=many_mode.BOX).set_value("{1: 2}\n{3: 4}")
    app.run()
    assert "expected an object" in app.error[0].value
    app.selectbox(key="many_form").set_value("lines")
    app.run()
    assert not app.error
    assert any("Read as lines: 2 prompts" in one.value for one in app.caption)


def test_the_column_of_prompts_is_chosen_where_none_is_called_so(open_page):
    app = open_page("live_routing", mode="many")
    app.text_area(key=many_mode.BOX).set_value("kind,words\na,1 2\nb,3 4")
    app.run()
    app.selectbox(key="many_form").set_value("csv").run()
    app.selectbox(key="many_prompt_column").set_value("words")
    app.selectbox(key="many_label_column").set_value("kind").run()
    assert not app.error
    assert any("2 prompts; labels: a (1), b (1)." in one.value for one in app.caption)


def test_a_run_says_first_which_expert_each_label_has(finished):
    table = finished.dataframe[0].value
    assert all(name == "–" or "·E" in name for name in table["its expert"])
    assert any("takes" in one.proto.body for one in finished.get("html"))
    assert not finished.tabs  # statistics are folded


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("one.csv", "prompt\n1\n2\n", "Read as CSV: 2 prompts; no labels."),
        ("one.txt", "prompt\n1\n2\n", "Read as lines: 3 prompts; no labels."),
        ("one.jsonl", '{"text": "1", "topic": "x"}\n', "Read as JSON lines: 1 prompts; labels: x"),
    ],
)
def test_a_file_is_read_as_its_name_says(monkeypatch, name, content, said):
    captions: list[str] = []
    monkeypatch.setattr(many_mode.st, "caption", captions.append)
    file = io.BytesIO(content.encode())
    file.name = name
    assert many_mode._read("ignored", file) is not None
    assert captions[0].startswith(said)


def test_a_retention_that_is_no_number_is_explained(open_page, monkeypatch):
    monkeypatch.setenv("GROK_LENS_KEEP_DAYS", "soon")
    app = open_page("live_routing", mode="many")
    assert not app.exception
    assert "expected days" in app.error[0].value


def test_a_run_is_downloaded_whole(finished, store):
    with zipfile.ZipFile(io.BytesIO(run_zip(all_runs(store)[0]))) as archive:
        assert archive.testzip() is None
        assert "3 4 5" in archive.read("prompts.csv").decode()


def test_the_owner_is_a_hash_of_the_browsers_key(monkeypatch):
    state: dict = {}
    monkeypatch.setattr(owner.st, "session_state", state)

    class Context:
        cookies: dict = {}

    monkeypatch.setattr(owner.st, "context", Context)
    first = owner.current()
    assert first == owner.current() and len(first) == 64
    assert state["owner_key"] not in first
    state.clear()
    assert owner.current() != first
    for bad in ["", "x", "a" * 42, "<script>" + "a" * 35]:
        state.clear()
        Context.cookies = {owner.COOKIE: bad}
        assert owner.current() and state["owner_key"] != bad
    state.clear()
    Context.cookies = {owner.COOKIE: "k" * 43}
    known = owner.current()
    state.clear()
    assert owner.current() == known and state["owner_key"] == "k" * 43


def test_words_in_context_are_text_and_never_markup():
    nasty = "<img src=x onerror=alert(1)>"
    one = Occurrence(0, 1, nasty, 5, nasty, 0.5, 0, (nasty,), (nasty,))
    shown = many_words.concordance([one], many_labels=True)
    assert "<img" not in shown
    assert shown.count("&lt;img") == 4


def test_labels_and_problems_are_text_and_never_markdown(open_page, store):
    nasty = "![x](http://example.org/p.png) :red[y] $z$"
    app = open_page("live_routing", mode="many")
    rows = [{"label": nasty, "prompt": text} for text in ("1 2 3", "4 5 <b>6</b>")]
    app = run_prompts(app, "\n".join(json.dumps(row) for row in rows))
    ended(store)
    app.run()
    shown = [one.value for one in [*app.markdown, *app.caption, *app.error]]
    assert any(rf"!\[x\](http:{JOINER}//example.org/p.png)" in one for one in shown)
    assert not any("![x](" in one or ":red[" in one for one in shown)
    assert r"\<b>" in app.error[0].value


def test_the_ready_list_has_as_many_of_each_kind():
    assert set(ready_list().by_label.values()) == {10} and len(TEXTS) == 5
    assert len(set(ready_list().texts)) == 50
