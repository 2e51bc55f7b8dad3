"""A visitor of the app in a real browser, who times what a press leads to.

Clicks are timed inside the page, from the press of the button to the first frame that shows the
result, so Playwright's own waiting is not in them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parents[2]
TRIES = 5
QUIET = 400  # ms between what was shown last and the next press
PATIENCE = 120.0
# Without a graphics card Chromium would imitate one, at several times the cost.
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
CHART = "layer_similarity_heatmap"

# What is read off the page. `armed` waits for the next press of the pointer and then looks at
# every frame for the first line and for the end.
SCRIPT = """
window.lens = {
  text: (selector) => document.querySelector(selector)?.textContent ?? "",
  title: () => lens.text('[data-testid="stMain"] h1'),
  finding: () => lens.text('[data-testid="stMain"] h3'),
  chart: (key) => [...document.querySelectorAll(`.st-key-${key} [aria-label]`)]
    .map((part) => part.getAttribute("aria-label")).join(),
  complete: () => {
    const app = document.querySelector('[data-testid="stApp"]');
    const charts = [...document.querySelectorAll('[data-testid="stVegaLiteChart"]')];
    return app?.dataset.testScriptState === "notRunning"
      && !document.querySelector('[data-testid="stMain"] [data-stale="true"]')
      && charts.filter((chart) => chart.offsetParent)
        .every((chart) => chart.querySelector("canvas, svg.marks"));
  },
  arm: (shown) => {
    lens.first = lens.end = lens.sign = null;
    let pressed = null;
    document.addEventListener(
      "pointerdown", () => { pressed = performance.now(); }, { capture: true, once: true });
    const look = () => {
      const now = performance.now();
      if (pressed !== null && lens.sign === null
          && document.querySelector('[data-testid="stSpinner"], [data-testid="stProgress"]'))
        lens.sign = now - pressed;
      if (pressed !== null && lens.first === null && shown()) lens.first = now - pressed;
      if (lens.first !== null && lens.complete()) lens.end = now - pressed;
      if (lens.end === null) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  },
};
"""


class Times(NamedTuple):
    """Seconds from a press on.

    Attributes:
        first: to the first line, or to what was asked for.
        complete: to the whole page.
        processor: that the server worked until then; nan where the system doesn't tell.
        sign: to the first sign of progress; nan where there was none.
    """

    first: float
    complete: float
    processor: float
    sign: float


class Server(NamedTuple):
    """A server that has just been started.

    Attributes:
        address: of it.
        pid: of its process.
        started: when it was, by the clock of `time.perf_counter`.
        healthy: seconds until it was.
    """

    address: str
    pid: int
    started: float
    healthy: float

    def processor(self) -> float:
        """Seconds that all its threads have worked; nan where the system doesn't tell."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class BrowserMissing(Exception):
    """There is nothing to open the app with; the text says what to install."""


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of a fresh browser.

    Raises:
        BrowserMissing: no Playwright, or no Chromium that starts.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError as error:
        raise BrowserMissing(
            "Playwright is not installed: python -m pip install -r tests/requirements.txt"
        ) from error
    named = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
    executable = named if Path(named).exists() else None
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        except Error as error:
            raise BrowserMissing(
                "No Chromium starts: install one, name it with CHROMIUM, or run "
                "python -m playwright install chromium."
            ) from error
        page = browser.new_page(viewport={"width": 1440, "height": 1100})
        page.set_default_timeout(1000 * PATIENCE)
        page.add_init_script(SCRIPT)
        yield page
        browser.close()


@contextmanager
def server(checkpoint: Path | None) -> Iterator[Server]:
    """A new server, once it is healthy.

    Raises:
        RuntimeError: it ended, or was not healthy in time; with its last words.
    """
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py"]
    command += ["--server.port", str(port), "--server.address", "127.0.0.1"]
    command += ["--server.headless", "true"]
    if checkpoint is not None:
        command += ["--", "--checkpoint", str(checkpoint.resolve())]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GROK_LENS_")}
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while not _healthy(address):
                late = time.perf_counter() - started > PATIENCE
                if late or process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"The server did not start: {log.read()[-500:]}")
                time.sleep(0.02)
            yield Server(address, process.pid, started, time.perf_counter() - started)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Visitor:
    """Somebody who clicks through the app of one server.

    Args:
        page: of the browser.
        server: that it looks at.
    """

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server

    def timed(self, shown: str, press: Callable[[], object]) -> Times:
        """A press, until the JavaScript condition `shown` holds and the page is complete."""
        page, before = self.page, self.server.processor()
        page.evaluate(f"() => lens.arm(() => {shown})")
        press()
        page.wait_for_function("lens.end !== null")
        first, complete, sign = page.evaluate("[lens.first, lens.end, lens.sign]")
        worked = self.server.processor() - before
        return Times(
            first / 1000, complete / 1000, worked, float("nan") if sign is None else sign / 1000
        )

    def switch(self, title: str) -> Times:
        """A click in the navigation."""
        before = json.dumps(self.page.evaluate("lens.finding()"))
        link = self.page.locator('[data-testid="stSidebarNavLink"]').get_by_text(title, exact=True)
        shown = f"lens.title() === {title!r} && lens.finding() && lens.finding() !== {before}"
        return self.timed(shown, link.click)

    def choose_metric(self, label: str) -> Times:
        """Another metric on Layers: press on it in the open list until the heatmap has changed."""
        box = self.page.locator(".st-key-metric").get_by_role("combobox")
        if not box.is_visible():
            self.page.get_by_role("button", name="Options").click()
        option = self.page.get_by_role("option", name=label, exact=True)
        self._open(box, option)
        return self.timed(self._changed(f"lens.chart({CHART!r})"), option.click)

    def run(self, text: str) -> Times:
        """A text of one's own, from the press on Run to its tokens."""
        box = self.page.locator(".st-key-prompt textarea")
        if not box.is_visible():
            self.page.get_by_text("Your own text").first.click()
        box.fill(text)
        run = self.page.get_by_test_id("stFormSubmitButton").get_by_role("button", name="Run")
        return self.timed(self._changed("lens.chart('token_strip')"), run.click)

    def mode(self, title: str) -> None:
        """Another mode of Live routing, until it is complete."""
        self.page.locator(".st-key-mode").get_by_text(title, exact=True).click()
        self.page.wait_for_timeout(QUIET)
        self.page.wait_for_function("lens.complete()")

    def example(self, row: str, name: str) -> Times:
        """An example of a mode, from the press on it to what it found.

        Args:
            row: key of the row of examples.
            name: of the example.
        """
        button = self.page.locator(f".st-key-{row}").get_by_text(name, exact=True)
        return self.timed(self._changed("lens.finding()"), button.click)

    def move(self) -> Times:
        """The next token of the same layer, until its card is there."""
        button = self.page.locator(".st-key-move_right button")
        return self.timed(self._changed("lens.text('.st-key-cell_card')"), button.click)

    def token(self, place: int) -> Times:
        """Another token, from the press on it in the open list until its card is there."""
        changed = self._changed("lens.text('.st-key-cell_card')")
        option = self.page.get_by_role("option").nth(place)
        self._open(self.page.locator(".st-key-token").get_by_role("combobox"), option)
        return self.timed(changed, option.click)

    def _open(self, box: Locator, option: Locator) -> None:
        """Open a list; a click that comes while the page is drawn anew does not."""
        for _ in range(TRIES):
            if option.is_visible():
                return
            box.click()
            self.page.wait_for_timeout(QUIET)
        option.wait_for()

    def _changed(self, value: str) -> str:
        self.page.wait_for_timeout(QUIET)
        self.page.wait_for_function("lens.complete()")
        before = self.page.evaluate(value)
        if not before:
            raise RuntimeError(f"The page shows nothing for {value}.")
        return f"{value} && {value} !== {json.dumps(before)}"
