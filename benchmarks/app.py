"""The app as a visitor meets it: start, page switches, runs and moves, in a real browser.

    python -m benchmarks app [--checkpoint DIR] [--rounds N]

Needs Playwright (tests/requirements.txt) and a Chromium: the one that the variable
CHROMIUM names, /usr/bin/chromium, or Playwright's own. Each round starts a new
server, which knows nothing yet; the browser is already there. Clicks are timed
inside the page, from the press of the button to the first frame that shows the
result, so Playwright's own waiting is not in them.

"First line" is the page's finding; "complete" is when the script has ended and
every chart is drawn. "Cold" is a server's first visit of a page, in the order of
the navigation; what pages share is then already there. "Processor" is the time that
all threads of the server worked from the press until the page was complete, on
systems that tell it: it says less about other programs than the clock does.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.rows import Row, exit_code, table
from lens.layers.similarity import LAYER_METRICS

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3
AGAIN = 2
MOVES = 4
TRIES = 5
QUIET = 400  # ms between what was shown last and the next press
PAGES = ("Overview", "Live routing", "Layers", "Experts", "Clustering")
LIMIT_START = 4.0  # s
LIMIT_LIVE = 1.0
LIMIT_FIRST_RUN = 4.0
LIMIT_MOVE = 0.3
AIM_SWITCH = 1.0
# Two texts of a little less than 64 tokens, which is what a short paragraph has.
TEXTS = (
    "The harbour lay quiet in the early morning. A boat with a red sail came slowly round the "
    "point, and the two men on the wall stopped talking to watch it. Nobody had expected it to "
    "come back before the winter.",
    "The kitchen was warm in the late evening. A pot with a thick soup stood on the fire, and the "
    "two girls at the table stopped reading to smell it. Nobody had wanted it to be ready.",
)
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


def visit(page: Page, checkpoint: Path | None, found: dict[str, list[float]]) -> None:
    """One round: a new server, every page cold and again, runs, moves, a few metrics twice."""
    with server(checkpoint) as one:
        found["healthy"].append(one.healthy)
        page.goto(one.address, wait_until="commit")
        page.wait_for_function("lens.title() === 'Overview' && lens.finding() !== ''")
        found["overview"].append(time.perf_counter() - one.started)
        page.wait_for_function("lens.complete()")
        found["overview complete"].append(time.perf_counter() - one.started)
        found["overview processor"].append(one.processor())
        visitor = Visitor(page, one)
        _note(found, "Live routing, cold", visitor.switch("Live routing"))
        _note(found, "first run", visitor.run(TEXTS[0]))
        _note(found, "another run", visitor.run(TEXTS[1]))
        for _ in range(MOVES):
            _note(found, "another cell", visitor.move())
        for place in range(MOVES):
            _note(found, "another token", visitor.token(place % 2))
        for title in PAGES[2:]:
            _note(found, f"{title}, cold", visitor.switch(title))
        for _ in range(AGAIN):
            for title in PAGES:
                _note(found, f"{title}, again", visitor.switch(title))
        visitor.switch("Layers")
        others = [metric.label for name, metric in LAYER_METRICS.items() if name != "cka"][:3]
        for when in ("new", "again"):
            for label in others:
                _note(found, f"metric, {when}", visitor.choose_metric(label))
        page.goto("about:blank")


def _note(found: dict[str, list[float]], name: str, times: Times) -> None:
    found[name].append(times.first)
    found[f"{name} complete"].append(times.complete)
    found[f"{name} processor"].append(times.processor)
    found[f"{name} sign"].append(times.sign)


def rows_of(found: dict[str, list[float]]) -> list[Row]:
    """Medians, with limit or aim beside the first line and the rest in the note."""

    def row(label: str, key: str, *, limit: float | None = None, aim: float | None = None) -> Row:
        note = [f"fastest {min(found[key]):.2f}"]
        for what in ("complete", "processor", "sign"):
            values = [value for value in found.get(f"{key} {what}", ()) if value == value]
            if values:
                word = "progress shown" if what == "sign" else what
                note.append(f"{word} {statistics.median(values):.2f}")
        middle = statistics.median(found[key])
        return Row(label, middle, "s", limit=limit, aim=aim, digits=2, note="; ".join(note))

    rows = [
        row("start of the server to healthy", "healthy"),
        row("start of the server to Overview's first line", "overview", limit=LIMIT_START),
        row("switch to Live routing, cold", "Live routing, cold", limit=LIMIT_LIVE),
        row("first run of Inspect, 64 tokens", "first run", limit=LIMIT_FIRST_RUN),
        row("another run of Inspect", "another run", aim=AIM_SWITCH),
        row("another cell: card changed", "another cell", limit=LIMIT_MOVE),
        row("another token: card changed", "another token", limit=LIMIT_MOVE),
        row("another metric, new: chart changed", "metric, new", limit=LIMIT_MOVE),
        row("another metric, seen before", "metric, again", limit=LIMIT_MOVE),
    ]
    for title in PAGES[2:]:
        rows.append(row(f"switch to {title}, cold", f"{title}, cold", aim=AIM_SWITCH))
    for title in PAGES:
        rows.append(row(f"switch to {title}, again", f"{title}, again", aim=AIM_SWITCH))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table; returns 1 where a limit is broken, 2 where nothing ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks app", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="new servers")
    args = parser.parse_args(argv)
    found: dict[str, list[float]] = defaultdict(list)
    try:
        with browser_page() as page:
            for _ in range(args.rounds):
                visit(page, args.checkpoint, found)
    except (BrowserMissing, RuntimeError) as error:
        print(f"benchmarks app: {error}", file=sys.stderr)
        return 2
    rows = rows_of(found)
    print(f"The app in a browser, median of {args.rounds} new servers")
    print(table(rows))
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())
