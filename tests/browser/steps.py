"""What journeys do again and again in a browser."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

PATHS = {
    "Overview": "/",
    "Layers": "/layers",
    "Experts": "/experts",
    "Clustering": "/clustering",
    "Features": "/features",
    "Live routing": "/live_routing",
}


def heading(page: Page, name: str) -> None:
    expect(page.get_by_role("heading", name=name, level=1, exact=True)).to_be_visible()


def settled(page: Page) -> None:
    """The script has run to its end and what it drew is shown."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    expect(page.locator("[data-stale=true]")).to_have_count(0)


def cell(page: Page, key: str, index: int):
    """The cell of a heatmap by its place in the data."""
    return (
        page.locator(f".st-key-{key} svg.marks g.mark-rect.role-mark")
        .first.locator("path")
        .nth(index)
    )


def answer_in_view(page: Page) -> None:
    """The first line and the start of the first figure stand in a laptop's window, unscrolled."""
    before = page.viewport_size
    page.set_viewport_size({"width": 1280, "height": 720})
    settled(page)
    assert page.get_by_test_id("stMain").evaluate("e => e.scrollTop") == 0
    line = page.locator(".st-key-first_lines").bounding_box()
    chart = page.get_by_test_id("stMain").get_by_test_id("stVegaLiteChart").first.bounding_box()
    assert 0 <= line["y"] < chart["y"] <= 600
    page.set_viewport_size(before)
    settled(page)


def prompt_box(page: Page):
    """The box that a text is typed into; the form is unfolded where it is folded."""
    settled(page)
    box = page.get_by_role("textbox").first
    if not box.is_visible():
        page.get_by_text(re.compile("^Your own ")).first.click()
    expect(box).to_be_visible()
    return box


def run_prompt(page: Page, text: str) -> None:
    box = prompt_box(page)
    box.fill(text)
    box.press("Control+Enter")
    expect(page.get_by_text(f"(shown: “{text[:20]}")).to_be_visible()
    expect(page.get_by_text("Save trace (.npz)")).to_be_visible()
    settled(page)


def numbers(page: Page):
    """What stands behind the page's first line, opened.

    The first line is written last: until then another finding's button comes first on the page.
    """
    first_lines = page.locator(".st-key-first_lines")
    button = first_lines.get_by_test_id("stPopoverButton").filter(has_text="Numbers")
    body = page.get_by_test_id("stPopoverBody")
    if not body.is_visible():
        button.click()
    expect(body).to_be_visible()
    return body


def download(page: Page, place, label: str) -> bytes:
    with page.expect_download() as coming:
        place.get_by_role("button", name=label, exact=False).first.click()
    return Path(coming.value.path()).read_bytes()


def upload(page: Page, name: str, data: bytes) -> None:
    page.get_by_text("Open a file").click()
    choose_file(page, name, data)


def choose_file(page: Page, name: str, data: bytes) -> None:
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    )
