"""What people see who may look, run, or own; what a server shows of itself and keeps of them."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from grok.errors import BusyError
from grok.serving.jobs import CANCELLED, Job
from lens.many_prompts.run_store import RunStore
from lens.storage.expert_notes import ExpertNote, NoteBook
from pages.access import limits, settings
from pages.hosting import your_data
from pages.live.many import mode as many_mode
from pages.live.many import runs
from pages.live.many.examples import ready_ids
from pages.shell import data_source, hub_source

SMALL = Path(__file__).resolve().parents[2] / "data" / "tiny12"


@pytest.fixture(autouse=True)
def server(monkeypatch, tmp_path):
    """A server with a list, and roles for three people."""
    for name in settings.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GROK_LENS_ACCESS", "signed-in")
    monkeypatch.setenv("GROK_LENS_VIEWERS", "vic@a.org")
    monkeypatch.setenv("GROK_LENS_OWNERS", "olga@a.org")
    monkeypatch.setenv("GROK_LENS_CONTACT", "Olga")
    monkeypatch.setenv("GROK_LENS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GROK_LENS_NOTES", str(tmp_path / "notes"))


@pytest.fixture
def open_as(monkeypatch, open_page):
    """Opens a page as somebody."""
    begin = AppTest.run

    def open_at(who: str, page: str = "overview", **more) -> AppTest:
        claims = {"is_logged_in": True, "sub": who, "email": who, "iat": time.time()}

        def run(app: AppTest, *arguments, **options) -> AppTest:
            app.user = claims
            return begin(app, *arguments, **options)

        monkeypatch.setattr(AppTest, "run", run)
        return open_page(page, **more)

    return open_at


def keys(app: AppTest) -> set[str]:
    return {str(one.key) for one in app.button}


def test_who_may_look_sees_pages_and_no_form(open_as):
    app = open_as("vic@a.org", "live_routing")
    assert not app.exception and not app.text_area
    assert any("but not run prompts. Ask Olga." in one.value for one in app.info)
    assert app.get("vega_lite_chart")  # the example that is stored beside the model
    app.switch_page("pages/layers.py").run()
    assert app.title[0].value == "Layers" and not app.exception
    assert not [one for one in app.get("popover") if one.proto.popover.label == "Server"]


def test_a_link_runs_nothing_for_who_may_look(open_as):
    app = open_as("vic@a.org", "live_routing", example="german")
    assert not app.exception and "traces" not in app.session_state


def test_who_may_run_reads_the_limits_before_and_when_they_are_reached(open_as, monkeypatch):
    monkeypatch.setenv("GROK_LENS_PROMPTS_A_MINUTE", "1")
    app = open_as("rita@a.org", "live_routing")
    assert any("One person may run 1 prompts a minute" in one.value for one in app.caption)
    with pytest.raises(BusyError, match="as much as one person may"):
        for _ in range(2):
            limits.charge("rita", 10)


def test_work_in_the_background_runs_for_who_may(open_as, monkeypatch, tmp_path):
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    app = open_as("rita@a.org", "live_routing", mode="many")
    app.text_area(key=many_mode.BOX).set_value(ready_ids().jsonl()).run()
    next(one for one in app.button if one.label == "Run").click().run()
    store = RunStore(tmp_path / "runs")
    (begun,) = store._all()
    job = runs.jobs().get(begun.id)
    assert job is None or job.wait(120).ended
    assert [(one.status, one.problem) for one in store._all()] == [("finished", "")]


def test_an_owner_sees_the_load_and_clears_caches(open_as):
    app = open_as("olga@a.org", state={"server": True})
    assert not app.exception
    assert "clear_caches" in keys(app)
    assert any("Hours since" in str(one.value) for one in app.sidebar.dataframe)
    app.button(key="clear_caches").click().run()
    assert not app.exception


def test_an_owner_ends_a_run_of_somebody_else(open_as):
    stop = threading.Event()

    def work(job: Job) -> None:
        while not stop.wait(0.01):
            job.check()

    job = runs.jobs().start("a run", work, group="rita")
    try:
        app = open_as("olga@a.org", state={"server": True})
        next(one for one in app.button if str(one.key).startswith("end_")).click().run()
        assert job.wait(300).status == CANCELLED and not app.exception
    finally:
        stop.set()


def test_a_person_takes_all_away_and_deletes_it_for_good(open_as, tmp_path, monkeypatch):
    app = open_as("rita@a.org", "experts")
    app.session_state["own"] = True
    assert not app.exception
    monkeypatch.setattr(your_data.owner, "current", lambda: "a" * 64)
    notes = NoteBook(tmp_path / "notes")
    notes.keep("a" * 64, ExpertNote("m", 0, 1, "L0·E1", note="a secret of mine"))
    notes.keep("b" * 64, ExpertNote("m", 0, 1, "L0·E1", note="of another"))
    app.run()
    assert any("keeps 1 note, 0 runs and 0 shared texts" in one.value for one in app.markdown)
    archive = zipfile.ZipFile(io.BytesIO(your_data.own().archive()))
    assert b"a secret of mine" in archive.read("notes.json")
    assert b"of another" not in archive.read("notes.json")
    app.checkbox(key="own_sure").check().run()
    app.button(key="own_delete").click().run()
    assert not app.exception
    left = b"".join(file.read_bytes() for file in (tmp_path / "notes").iterdir())
    assert b"a secret of mine" not in left and b"of another" in left


def test_an_address_asks_a_server_in_vain_for_draws_that_take_minutes(open_as):
    app = open_as("rita@a.org", "layers", draws="5000", permutations="100")
    assert not app.exception
    said = [one.value for one in app.toast]
    assert any("draws “5000”, which takes longer than this server allows" in one for one in said)
    assert app.segmented_control(key="draws").options == ["500", "1,000"]


@pytest.mark.parametrize("named", ["", "xai-org/grok-1"])
def test_a_server_fetches_from_the_hub_what_it_names_and_nothing_else(open_as, monkeypatch, named):
    monkeypatch.setenv("GROK_LENS_HUB_ALLOW", named)
    asked = []
    monkeypatch.setattr(
        "lens.extract.hub.extract_from_hub", lambda one, **_: asked.append(one) or 1 / 0
    )
    app = open_as("rita@a.org", state={"hub_repository": "evil/other"} if not named else {})
    boxes = [one for one in app.selectbox if one.key == "hub_repository"]
    assert [one.options for one in boxes] == ([[named]] if named else [])
    assert not [one for one in app.text_input if one.key == "hub_repository"]
    monkeypatch.setattr(hub_source.st, "rerun", lambda: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        hub_source.fetch("evil/other", hub_source.st.empty())
    assert asked == []
