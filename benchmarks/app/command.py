"""The app as a visitor meets it: start, page switches, runs and moves, in a real browser.

    python -m benchmarks app [--checkpoint DIR] [--rounds N]

Needs Playwright (tests/requirements.txt) and a Chromium: the one that the variable
CHROMIUM names, /usr/bin/chromium, or Playwright's own. Each round starts a new
server, which knows nothing yet; the browser is already there.

"First line" is the page's finding; "complete" is when the script has ended and
every chart is drawn. "Cold" is a server's first visit of a page, in the order of
the navigation; what pages share is then already there. "Processor" is the time that
all threads of the server worked from the press until the page was complete, on
systems that tell it: it says less about other programs than the clock does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.app.visitor import BrowserMissing, Times, Visitor, browser_page, server
from benchmarks.rows import Row, exit_code, table
from lens.layers.similarity import LAYER_METRICS

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROUNDS = 3
AGAIN = 2
MOVES = 4
PAGES = ("Overview", "Live routing", "Layers", "Experts", "Clustering")
LIMIT_START = 4.0  # s
LIMIT_LIVE = 1.0
LIMIT_FIRST_RUN = 4.0
LIMIT_MOVE = 0.3
LIMIT_RUN_PROCESSOR = 0.4  # s of the server, from the press to the complete page
LIMIT_MOVE_PROCESSOR = 0.15
AIM_SWITCH = 1.0
# Two texts of a little less than 64 tokens, which is what a short paragraph has.
TEXTS = (
    "The harbour lay quiet in the early morning. A boat with a red sail came slowly round the "
    "point, and the two men on the wall stopped talking to watch it. Nobody had expected it to "
    "come back before the winter.",
    "The kitchen was warm in the late evening. A pot with a thick soup stood on the fire, and the "
    "two girls at the table stopped reading to smell it. Nobody had wanted it to be ready.",
)
# Of every mode but Inspect the key of its row of examples, and those that are pressed in turn.
MODES = {
    "Compare": ("compare_example_texts", ("A phrase put in", "Names changed")),
    "What if": ("every_expert_example", ("Python", "German")),
    "Generate": ("generate_example", ("A tale", "Arithmetic")),
    "Many prompts": ("many_example", ("Ready list",)),
}


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
        for mode, (row, examples) in MODES.items():
            visitor.mode(mode)
            for turn in range(AGAIN):
                for example in examples:
                    if turn == 0 or len(examples) > 1:
                        times = visitor.example(row, example)
                        _note(found, f"{mode}, {'again' if turn else 'first'}", times)
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
        note = [f"fastest {min(found[key]):.2f}"] if len(found[key]) > 1 else []
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
        row(
            "another run of Inspect, 64 tokens: processor of the server",
            "another run processor",
            limit=LIMIT_RUN_PROCESSOR,
        ),
        row("another cell: card changed", "another cell", limit=LIMIT_MOVE),
        row("another token: card changed", "another token", limit=LIMIT_MOVE),
        row(
            "another cell: processor of the server",
            "another cell processor",
            limit=LIMIT_MOVE_PROCESSOR,
        ),
        row(
            "another token: processor of the server",
            "another token processor",
            limit=LIMIT_MOVE_PROCESSOR,
        ),
        row("another metric, new: chart changed", "metric, new", limit=LIMIT_MOVE),
        row("another metric, seen before", "metric, again", limit=LIMIT_MOVE),
    ]
    for mode, (_, examples) in MODES.items():
        when = "again" if len(examples) > 1 else "first"
        rows.append(row(f"an example of {mode}, {when}: processor", f"{mode}, {when} processor"))
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
