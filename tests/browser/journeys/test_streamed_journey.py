"""A model streamed from a slow disk: what it costs, progress, Stop, the queue, the result."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from lens.traces import routing
from lens.traces.trace import load_trace
from tests.browser.journeys import slow_disk
from tests.browser.steps import download, prompt_box, settled

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests" / "data" / "tiny12"
IDS = "5, 17, 3, 42, 99, 256, 12, 7"
LAYER = re.compile(r"Layer \d+ of 12 · .* left · [\d.]+ MB read")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that stops the disk for as long as it is there."""
    return tmp_path_factory.mktemp("disk") / "held"


@pytest.fixture(scope="module")
def server(serve, held: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = {
        "GROK_LENS_CHECKPOINT": str(SMALL),
        "GROK_LENS_MODE": "streamed",
        slow_disk.HOLD: str(held),
    }
    script = str(Path(__file__).with_name("slow_disk.py"))
    with serve(tmp_path_factory.mktemp("streamed"), settings, [script]) as address:
        yield address


def ask(page: Page, prompt: str = IDS) -> None:
    """Type a prompt, and be told what it costs."""
    settled(page)
    prompt_box(page).fill(prompt)
    page.get_by_role("button", name="Show what it costs").click()
    expect(page.get_by_text("The time is an estimate.")).to_be_visible()


def start(page: Page) -> None:
    page.locator(".st-key-stream_start button").click()


def test_a_streamed_prompt_says_its_cost_shows_its_layers_and_gives_the_resident_experts(visit):
    from grok import load

    page = visit("/live_routing")
    expect(page.get_by_text("This model is streamed from disk.")).to_be_visible()
    ask(page)
    expect(page.get_by_text("1 pass over the weights")).to_be_visible()
    expect(page.locator(".st-key-stream_running")).to_have_count(0)
    start(page)
    expect(page.get_by_text(LAYER)).to_be_visible()
    expect(page.get_by_text("Save trace (.npz)")).to_be_visible()
    expect(page.locator(".st-key-stream_running")).to_have_count(0)
    settled(page)
    trace = load_trace(io.BytesIO(download(page, page.locator(".st-key-save_trace"), "Save")))
    expected = load(SMALL, mode="resident").trace_routing([int(i) for i in IDS.split(",")])
    # Both round to bfloat16, in another order: experts that are as good as tied may change places.
    same = (np.sort(trace.experts, -1) == np.sort(expected.experts, -1)).all(-1)
    assert (same | (np.abs(routing.margin(expected)) < 0.05)).all() and same.mean() > 0.9


def test_a_stop_ends_the_pass_and_the_next_prompt_runs(visit, held):
    page = visit("/live_routing")
    ask(page)
    start(page)
    expect(page.get_by_text(LAYER)).to_be_visible()
    held.touch()  # the pass doesn't end before it is stopped
    try:
        page.locator(".st-key-stream_stop button").click()
        expect(page.get_by_role("button", name="Stopping…")).to_be_visible()
    finally:
        held.unlink()
    expect(page.get_by_text(re.compile(r"Stopped after layer \d+ of 12"))).to_be_visible()
    expect(page.get_by_text("Save trace (.npz)")).to_have_count(0)
    ask(page, "5, 17, 3")
    start(page)
    expect(page.get_by_text("Save trace (.npz)")).to_be_visible()


def test_a_run_goes_on_while_its_owner_looks_at_another_page(visit):
    page = visit("/live_routing")
    ask(page)
    start(page)
    expect(page.get_by_text(LAYER)).to_be_visible()
    page.get_by_role("link", name="Layers").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Layers")
    page.get_by_role("link", name="Live routing").click()
    expect(page.get_by_text("Save trace (.npz)")).to_be_visible()


def test_who_comes_second_sees_the_place_in_the_queue_and_then_the_result(visit, held):
    pages = [visit("/live_routing"), visit("/live_routing")]
    for page in pages:
        ask(page)
    start(pages[0])
    expect(pages[0].get_by_text(LAYER)).to_be_visible()
    held.touch()  # the first run doesn't end before the second has come
    try:
        start(pages[1])
        queued = re.compile("In the queue at place 1: 1 run ahead")
        expect(pages[1].get_by_text(queued)).to_be_visible()
    finally:
        held.unlink()
    for page in pages:
        expect(page.get_by_text("Save trace (.npz)")).to_be_visible()
