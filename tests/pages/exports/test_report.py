"""The report from the app is the one of the command, can be stopped, and waits for its reader."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from grok.serving.jobs import CANCELLED, DONE, FAILED
from lens.report.parts import Settings
from lens.report.write import INDEX, PAGE, write_report
from lens.routers.router_set import RouterSet
from pages.exports.report import JOB, reports
from pages.exports.report_job import Order, Reports

pytestmark = pytest.mark.usefixtures("few_drawn_sets")

PATIENCE = 240


def small_set(seed: int = 1) -> RouterSet:
    weights = np.random.default_rng(seed).standard_normal((2, 24, 4))
    return RouterSet(weights.astype(np.float32), top_k=1, source="made for a test")


def test_a_report_can_be_stopped_and_then_made_once_for_all_as_the_command_writes_it(
    open_page, tmp_path
):
    routers = small_set()
    app = open_page(state={"uploaded_routers": routers}, source="upload", draws="500")
    app.button(key="report_start").click().run()
    stopped = app.session_state[JOB.key][1]
    app.button(key="report_stop").click().run()
    assert stopped.wait(PATIENCE).status == CANCELLED
    app.run()
    app.button(key="report_start").click().run()
    key, job = app.session_state[JOB.key]
    settings = key[2]
    assert settings == Settings(draws=500, reference="unrelated")
    order = Order(routers, settings)
    assert job is not stopped and reports().made(order) is None
    second = reports().start(order, "somebody else")
    assert job.wait(PATIENCE).status == DONE
    made = reports().made(order)
    assert second.wait(PATIENCE).status == DONE and reports().made(order) is made
    app.run()
    assert not app.exception
    files = {button.proto.label.split(",")[0]: button for button in app.get("download_button")}
    assert {"ZIP", "One page (HTML)"} <= set(files)

    report = write_report(routers, tmp_path / "report", settings)
    archive = zipfile.ZipFile(io.BytesIO(made.archive.read_bytes()))
    assert sorted(archive.namelist()) == [f"report/{name}" for name in sorted(report.files)]
    for name in report.files:
        same = archive.read(f"report/{name}") == (report.folder / name).read_bytes()
        assert same or name.endswith(".png"), name
    assert made.page.read_bytes() == archive.read(f"report/{PAGE}")
    assert archive.read(f"report/{INDEX}")


def test_why_a_report_could_not_be_made_is_said():
    reports = Reports()
    order = Order(small_set(3), Settings(metric="no such metric"))
    job = reports.start(order, "somebody")
    state = job.wait(PATIENCE)
    assert state.status == FAILED and "no such metric" in str(state.error)
