"""Every page opens at its address and reads in light and dark, wide and narrow, as axe says too."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.steps import PATHS, download, heading, settled
from tests.screenshots.scenes import SCENES, Scene

COLOURS, SCROLLING = "color-contrast", "scrollable-region-focusable"
# What is wider than its place is in the order of the tab key, a moment after it is drawn.
SCROLLABLE = """() => [...document.querySelectorAll("[data-testid=stVegaLiteChart]")].every(
  chart => chart.scrollWidth <= chart.clientWidth || chart.tabIndex === 0)"""
LEVELS = "() => [...document.querySelectorAll('h1, h2, h3, h4')].map(e => +e.tagName[1])"
GRAVE = {"serious", "critical"}
# Their parts stand on pages that are always looked at too.
REPEATED = ("compare-run", "what-if-run", "generate-run", "many-run")
# Pages that are looked at with a result.
RUN = (PATHS["Live routing"], PATHS["Features"])
# Journeys look at these, on their way and with more of it open.
ELSEWHERE = ("inspect-run", "features-run")
PAGES = [
    pytest.param(scene, marks=[pytest.mark.repeats] if scene.name in REPEATED else [])
    for scene in SCENES
    if (scene.path in PATHS.values() and scene.path not in RUN)
    or (scene.name.endswith("-run") and scene.name not in ELSEWHERE)
]
NAMES = {path: name for name, path in PATHS.items()}
# No page is wider than its window.
FITS = """() => {
  const main = document.querySelector("[data-testid=stMain]");
  return main.scrollWidth <= main.clientWidth + 1;
}"""
BRIGHTNESS = """() => getComputedStyle(document.querySelector("[data-testid=stApp]"))
  .backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"""


def found(page: Page, *rules: str) -> list[str]:
    """Serious and critical findings of some rules, or of all, a line for each."""
    page.wait_for_function(SCROLLABLE)
    options = {"runOnly": list(rules)} if rules else {}
    # Of what is in order, one element a rule is named instead of each.
    answer = Axe().run(page, options={**options, "resultTypes": ["violations"]}).response
    assert answer["passes"], "axe looked at nothing"
    return [
        f"{one['id']}: {node['html'][:160]}"
        for one in answer["violations"]
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]


def darken(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"() => ({BRIGHTNESS})() < 200")
    settled(page)


@pytest.mark.parametrize("scene", PAGES, ids=lambda scene: scene.name)
def test_a_page_fits_and_axe_finds_nothing_serious_in_light_dark_and_on_a_phone(
    visit, scene: Scene
):
    # Of a continuation a few tokens are looked at as many are.
    path = scene.path + "&new_tokens=24" * (scene.name == "generate-run")
    page = visit(path, viewport={"width": 1280, "height": 900}, color_scheme="light")
    heading(page, NAMES[scene.path.partition("?")[0]])
    scene.act(page)
    look_at(page)


def look_at(page: Page) -> None:
    """A page in a laptop's window fits and axe finds nothing, as it is, dark and on a phone."""
    page.wait_for_function(FITS)
    assert page.evaluate(BRIGHTNESS) > 600
    assert found(page) == []
    levels = page.evaluate(LEVELS)
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))  # none is left out
    darken(page)
    assert found(page, COLOURS) == []
    page.set_viewport_size({"width": 390, "height": 844})
    settled(page)
    page.wait_for_function(FITS)
    assert found(page, COLOURS, SCROLLING) == []


def test_downloads_are_named_by_their_figure_and_one_is_saved_for_print(visit):
    page = visit("/layers")
    settled(page)
    buttons = page.locator("[class*='_downloads'] button")
    names = [re.sub(r"\s+", " ", name) for name in buttons.all_text_contents()]
    assert len(names) >= 4
    assert len(set(names)) == len(names)
    assert any("Similarity of layers" in name for name in names)
    place = page.locator(".st-key-layer_similarity_heatmap_downloads")
    place.get_by_role("button", name="PDF, size").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("spinbutton", name="Width").fill("85")
    dialog.get_by_role("spinbutton", name="Width").press("Enter")
    expect(dialog.get_by_text(re.compile(r"^85 × \d+ mm$"))).to_be_visible()
    settled(page)
    pdf = download(page, dialog, "Save")
    assert pdf.startswith(b"%PDF") and pdf.rstrip().endswith(b"%%EOF")
    across = float(re.findall(rb"/MediaBox \[\s*0 0 ([\d.]+)", pdf)[0])
    assert across == pytest.approx(85 / 25.4 * 72, abs=0.1)
    assert found(page) == []
