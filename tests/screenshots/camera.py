"""Pictures of scenes: whole pages, in all widths and both schemes, with a contact sheet."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import Error as PlaywrightError

from tests.screenshots.scenes import Scene

WIDTHS = (1920, 1280, 390)
SCHEMES = ("light", "dark")
HEIGHTS = {390: 844, 1280: 800, 1920: 1000}
TALLEST = 6000
PHONE = 640  # below this width the sidebar is closed when a page is opened
STILL = 0.2  # seconds between two pictures that must be equal
PATIENCE = 20  # seconds that a page may move


@dataclass(frozen=True)
class Picture:
    """One picture and what was wrong on its page."""

    scene: Scene
    width: int
    scheme: str
    file: Path
    seconds: float
    trouble: str


def pictures(
    browser: Browser,
    address: str,
    out: Path,
    scenes: Sequence[Scene],
    widths: Sequence[int] = WIDTHS,
    schemes: Sequence[str] = SCHEMES,
) -> Iterator[Picture]:
    """Each scene, opened once for wide windows and once for narrow ones, in each scheme."""
    for scene in scenes:
        for scheme in schemes:
            for _, alike in groupby(sorted(widths, reverse=True), lambda width: width < PHONE):
                yield from _of_scene(browser, address, out, scene, list(alike), scheme)


def _of_scene(
    browser: Browser, address: str, out: Path, scene: Scene, widths: list[int], scheme: str
) -> Iterator[Picture]:
    began = time.monotonic()
    context = browser.new_context(viewport=_window(widths[0]), color_scheme=scheme)
    try:
        page = context.new_page()
        failed = ""
        try:
            page.goto(address + scene.path)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            scene.act(page)
        except (AssertionError, PlaywrightError) as error:
            failed = f"never came to its state: {str(error).splitlines()[0]}"
        for width in widths:
            file = out / f"{scene.name}-{scheme}-{width}.png"
            file.write_bytes(whole(page, width))
            wrong = "; ".join(filter(None, (failed, trouble(page))))
            yield Picture(scene, width, scheme, file, time.monotonic() - began, wrong)
            began = time.monotonic()
    finally:
        context.close()


def whole(page: Page, width: int) -> bytes:
    """The page from top to bottom, once nothing on it moves."""
    page.set_viewport_size(_window(width))
    still(page)
    height = page.get_by_test_id("stMain").evaluate("e => e.scrollHeight")
    if height > HEIGHTS.get(width, 800):
        page.set_viewport_size({"width": width, "height": min(height, TALLEST)})
    return still(page)


def still(page: Page) -> bytes:
    """A picture that equals the one before it."""
    end = time.monotonic() + PATIENCE
    last = page.screenshot(animations="disabled", caret="hide")
    while time.monotonic() < end:
        time.sleep(STILL)
        now = page.screenshot(animations="disabled", caret="hide")
        if now == last:
            break
        last = now
    return last


def trouble(page: Page) -> str:
    """What a visitor should never see: errors, and a page wider than its window."""
    found = []
    main = page.get_by_test_id("stMain")
    found += [f"error: {text}" for text in page.get_by_test_id("stException").all_inner_texts()]
    for alert in page.get_by_test_id("stAlertContentError").all_inner_texts():
        found.append(f"error: {alert}")
    beyond = main.evaluate("e => e.scrollWidth - e.clientWidth")
    if beyond > 1:
        found.append(f"{beyond} px wider than the window")
    return "; ".join(" ".join(one.split()) for one in found)


def contact_sheet(taken: Sequence[Picture]) -> str:
    """An HTML page with all pictures, a scene a row."""
    rows = []
    for scene, group in groupby(taken, lambda picture: picture.scene):
        cells = "".join(_cell(picture) for picture in group)
        rows.append(f"<h2>{html.escape(scene.shows)}</h2><div class=row>{cells}</div>")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Screenshots</title><style>"
        "body{font:15px sans-serif;margin:2rem} .row{display:flex;gap:1rem;align-items:start;"
        "overflow-x:auto} figure{margin:0;flex:none} img{border:1px solid #999;height:auto}"
        "b{color:#b00}</style><h1>Screenshots</h1>" + "".join(rows)
    )


def _cell(picture: Picture) -> str:
    name = html.escape(picture.file.name)
    shown = max(130, picture.width // 4)
    wrong = f"<br><b>{html.escape(picture.trouble)}</b>" if picture.trouble else ""
    return (
        f"<figure><a href='{name}'><img loading=lazy width={shown} src='{name}' "
        f"alt='{html.escape(picture.scene.shows)}, {picture.scheme}, {picture.width} px wide'></a>"
        f"<figcaption>{picture.width} px, {picture.scheme}{wrong}</figcaption></figure>"
    )


def _window(width: int) -> dict[str, int]:
    return {"width": width, "height": HEIGHTS.get(width, 800)}
