"""The app as a visitor meets it: start, page switches and reruns, in a real browser.

    python -m benchmarks app [--checkpoint DIR]

Needs Playwright (tests/requirements.txt) and a Chromium: the one that the variable
CHROMIUM names, /usr/bin/chromium, or Playwright's own. Each round starts a new
server, which knows nothing yet; the browser is already there. Clicks are timed
inside the page, from the press of the button to the first frame that shows the
result, so Playwright's own waiting is not in them.

"First line" is the page's finding; "complete" is when the script has ended and
every chart is drawn. "Cold" is a server's first visit of a page, in the order of
the navigation; what pages share is then already there.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.rows import Row, exit_code, table
from lens.layers.similarity import LAYER_METRICS

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3
AGAIN = 2
PAGES = ("Overview", "Layers", "Experts", "Clustering", "Live routing")
AIM_START = 5.0  # s
AIM_SWITCH = 1.0
AIM_RERUN = 0.3
PATIENCE = 120.0
CHART = "layer_similarity_heatmap"

# What is read off the page. `armed` waits for the next press of the pointer and then looks at
# every frame for the first line and for the end.
SCRIPT = """
window.lens = {
  text: (selector) => document.querySelector(selector)?.innerText ?? "",
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
    lens.first = lens.end = null;
    let pressed = null;
    document.addEventListener(
      "pointerdown", () => { pressed = performance.now(); }, { capture: true, once: true });
    const look = () => {
      const now = performance.now();
      if (pressed !== null && lens.first === null && shown()) lens.first = now - pressed;
      if (lens.first !== null && lens.complete()) lens.end = now - pressed;
      if (lens.end === null) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  },
};
"""


class Times(NamedTuple):
    """Seconds to the first line (or the changed chart), and to the whole page."""

    first: float
    complete: float


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
            browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
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
def server(checkpoint: Path | None) -> Iterator[tuple[str, float, float]]:
    """A new server: its address, when it was started, and seconds until it was healthy.

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
            yield address, started, time.perf_counter() - started
        finally:
            process.terminate()
            process.wait(timeout=20)


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def armed(page: Page, shown: str) -> None:
    """Look for the JavaScript condition `shown` from the next press on."""
    page.evaluate(f"() => lens.arm(() => {shown})")


def taken(page: Page) -> Times:
    """The times found since `armed`."""
    page.wait_for_function("lens.end !== null")
    first, complete = page.evaluate("[lens.first, lens.end]")
    return Times(first / 1000, complete / 1000)


def switch(page: Page, title: str) -> Times:
    """A click in the navigation."""
    before = page.evaluate("lens.finding()")
    armed(
        page,
        f"lens.title() === {title!r} && lens.finding() && lens.finding() !== {json.dumps(before)}",
    )
    page.locator('[data-testid="stSidebarNavLink"]').get_by_text(title, exact=True).click()
    return taken(page)


def choose_metric(page: Page, label: str) -> Times:
    """Another metric on Layers: press on it in the open list until the heatmap has changed."""
    before = page.evaluate(f"lens.chart({CHART!r})")
    if not before:
        raise RuntimeError(f"The Layers page shows no chart {CHART}.")
    page.locator(".st-key-metric").get_by_role("combobox").click()
    option = page.get_by_role("option", name=label, exact=True)
    option.wait_for()
    armed(page, f"lens.chart({CHART!r}) !== {json.dumps(before)}")
    option.click()
    return taken(page)


def visit(page: Page, checkpoint: Path | None, found: dict[str, list[float]]) -> None:
    """One round: a new server, every page cold and again, a few metrics twice."""
    with server(checkpoint) as (address, started, healthy):
        found["healthy"].append(healthy)
        page.goto(address, wait_until="commit")
        page.wait_for_function("lens.title() === 'Overview' && lens.finding() !== ''")
        found["overview"].append(time.perf_counter() - started)
        page.wait_for_function("lens.complete()")
        found["overview complete"].append(time.perf_counter() - started)
        for title in PAGES[1:]:
            _note(found, f"{title}, cold", switch(page, title))
        for _ in range(AGAIN):
            for title in PAGES:
                _note(found, f"{title}, again", switch(page, title))
        switch(page, "Layers")
        others = [metric.label for name, metric in LAYER_METRICS.items() if name != "cka"][:3]
        for when in ("new", "again"):
            for label in others:
                _note(found, f"metric, {when}", choose_metric(page, label))
        page.goto("about:blank")


def _note(found: dict[str, list[float]], name: str, times: Times) -> None:
    found[name].append(times.first)
    found[f"{name} complete"].append(times.complete)


def rows_of(found: dict[str, list[float]]) -> list[Row]:
    """Medians, with the aim beside the first line and the end of the page in the note."""

    def row(label: str, key: str, aim: float | None) -> Row:
        note = f"fastest {min(found[key]):.2f}"
        if f"{key} complete" in found:
            note += f"; complete {statistics.median(found[f'{key} complete']):.2f}"
        return Row(label, statistics.median(found[key]), "s", aim=aim, digits=2, note=note)

    rows = [
        row("start of the server to healthy", "healthy", None),
        row("start of the server to Overview's first line", "overview", AIM_START),
    ]
    for title in PAGES[1:]:
        rows.append(row(f"switch to {title}, cold", f"{title}, cold", AIM_SWITCH))
    for title in PAGES:
        rows.append(row(f"switch to {title}, again", f"{title}, again", AIM_SWITCH))
    rows.append(row("another metric, new: chart changed", "metric, new", AIM_RERUN))
    rows.append(row("another metric, seen before", "metric, again", AIM_RERUN))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table; the aims are no limits, so it ends with 0 when it ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks app", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    found: dict[str, list[float]] = defaultdict(list)
    try:
        with browser_page() as page:
            for _ in range(ROUNDS):
                visit(page, args.checkpoint, found)
    except (BrowserMissing, RuntimeError) as error:
        print(f"benchmarks app: {error}", file=sys.stderr)
        return 2
    rows = rows_of(found)
    print(f"The app in a browser, median of {ROUNDS} new servers; complete: script and charts done")
    print(table(rows))
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())
