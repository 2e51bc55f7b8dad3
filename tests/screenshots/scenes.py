"""What there is to look at: every page and mode, and how to get there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page, expect

from tests.browser.steps import settled


@dataclass(frozen=True)
class Scene:
    """One thing to look at.

    Attributes:
        name: of its pictures.
        path: its address in the app.
        shows: what one sees, as the contact sheet says it.
        act: what a visitor does there before looking.
    """

    name: str
    path: str
    shows: str
    act: Callable[[Page], None] = settled


EXAMPLE = "[class*='st-key-'][class*='example'] button"
RUN = "[data-testid^='stBaseButton-prim']"
SEEN = """() => document.querySelector("[data-testid=stMain]").innerText
  + [...document.querySelectorAll("textarea")].map(box => box.value).join()"""


def run_example(page: Page) -> None:
    """Take the first example and run it, where choosing it does not do that already."""
    settled(page)
    main = page.get_by_test_id("stMain")
    for what in (EXAMPLE, RUN):
        button = main.locator(what).filter(visible=True).first
        if button.count() and button.is_enabled():
            before = page.evaluate(SEEN)
            button.click()
            page.wait_for_function(f"before => ({SEEN})() !== before", arg=before)
            settled(page)
    expect(main.get_by_test_id("stVegaLiteChart").first).to_be_visible()
    page.mouse.move(0, 0)  # away from what shows a tooltip
    settled(page)


def try_text(page: Page) -> None:
    """Read a text with a dictionary, and turn up the feature that is most unusual in it."""
    settled(page)
    page.get_by_role("textbox", name="Prompt").fill("She was so glad that")
    page.get_by_role("button", name="Read it").click()
    expect(page.get_by_text("Most unusual is")).to_be_visible()
    settled(page)
    page.get_by_text("What happens when it is turned up").click()
    page.get_by_role("button", name="Run it").click()
    expect(page.get_by_text("Routes that change", exact=True)).to_be_visible()
    page.mouse.move(0, 0)
    settled(page)


SCENES = (
    Scene("overview", "/", "Overview"),
    Scene("layers", "/layers", "Layers"),
    Scene("experts", "/experts", "Experts"),
    Scene("experts-chains", "/experts?tab=chains", "Experts: chains"),
    Scene("experts-listens", "/experts?tab=listens", "Experts: what they listen to"),
    Scene("clustering", "/clustering", "Clustering"),
    Scene("features", "/features", "Features"),
    Scene("features-run", "/features?find=text", "Features of a text; one turned up", try_text),
    Scene("inspect", "/live_routing", "Inspect, as it opens"),
    Scene("inspect-run", "/live_routing", "Inspect, an example", run_example),
    Scene("compare", "/live_routing?mode=compare", "Compare, as it opens"),
    Scene("compare-run", "/live_routing?mode=compare", "Compare, an example", run_example),
    Scene("what-if", "/live_routing?mode=what_if", "What if, as it opens"),
    Scene("what-if-run", "/live_routing?mode=what_if", "What if, an example", run_example),
    Scene("every-expert", "/live_routing?mode=what_if&question=every", "Every expert", run_example),
    Scene("patch", "/live_routing?mode=what_if&question=patch", "Patch", run_example),
    Scene("generate", "/live_routing?mode=generate", "Generate, as it opens"),
    Scene("generate-run", "/live_routing?mode=generate", "Generate, an example", run_example),
    Scene("many", "/live_routing?mode=many", "Many prompts, as it opens"),
    Scene("many-run", "/live_routing?mode=many", "Many prompts, the ready list", run_example),
)
