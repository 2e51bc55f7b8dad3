"""The app as a team meets it: people at once, over real websockets, on one and two web processes.

    python -m benchmarks hosted [--people 1 10 25 50] [--web 1 2] [--seconds 90]
    python -m benchmarks hosted --soak [MINUTES]

Each person is a tab that opens the live page, thinks about 5 seconds, and sends a text of its own
or looks at another page. One web process holds the model itself; two ask a third process that
does, and people are dealt to them in turn. Before people come, one visits each web process, and
the servers compile in the background what they will need.

"Mixed" counts answers whose tokens are not those of the text that was sent. Memory is of all
processes together, what they share counted once, at its highest. The people run on the same
machine; the processor time that they take is said. A soak says how memory and descriptors grew
from its first tenth to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hosted.people import THINK, Seen, use
from benchmarks.hosted.servers import Hosted, Watched, hosted, watched
from benchmarks.rows import Row, exit_code, table

PEOPLE = (1, 10, 25, 50)
WEB = (1, 2)
SECONDS = 90.0
SOAK_MINUTES = 30.0
SOAK_PEOPLE = 25
LIMIT_P95 = 5.0  # s, of a prompt, with 50 people on two web processes
LIMIT_MEMORY = 3.0  # GB
LIMIT_GROWTH = 150.0  # MB of a soak
LIMIT_DESCRIPTORS = 20
GOAL = (50, 2)
SETTLES, IDLE = 180.0, 0.1  # seconds at most; processors at work
LET_GO = 5.0  # s
SHOWN = 5  # failures that are listed


@dataclass(frozen=True)
class Measured:
    """One number of people on one number of web processes.

    Attributes:
        seen: what people met.
        watched: memory and descriptors meanwhile.
        left: descriptors after all had gone, above those before they came. Streamlit keeps three
            for each session, until a later visitor after it is two minutes old.
        processor: seconds that the servers worked.
        people_processor: seconds that the simulated people took.
        seconds: by the clock.
    """

    people: int
    web: int
    seen: Seen
    watched: Watched
    left: int
    processor: float
    people_processor: float
    seconds: float


def measured(
    app: Hosted,
    n_people: int,
    seconds: float,
    *,
    ids: bool,
    think: float,
    let_go: float = LET_GO,
) -> Measured:
    """So many people use an app that is ready.

    Args:
        ids, think: see `use`.
        let_go: seconds for the descriptors of those who left to be closed.
    """
    before, worked, own = app.descriptors(), app.processor(), _own_processor()
    began = time.monotonic()
    with watched(app) as seen_of_app:
        seen = asyncio.run(use(app.addresses, n_people, seconds, ids=ids, think=think))
    took = time.monotonic() - began
    worked, own = app.processor() - worked, _own_processor() - own
    _until_let_go(app, before, let_go)
    left = app.descriptors() - before
    web = len(app.addresses)
    return Measured(n_people, web, seen, seen_of_app, left, worked, own, took)


def _own_processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _until_let_go(app: Hosted, before: int, patience: float) -> None:
    """Wait until the descriptors of those who left are closed, or for so long."""
    end = time.monotonic() + patience
    while app.descriptors() > before and time.monotonic() < end:
        time.sleep(0.2)


def _until_settled(app: Hosted, patience: float = SETTLES) -> None:
    """Wait until the servers have compiled what they compile in the background, or for so long."""
    end = time.monotonic() + patience
    worked = float("inf")
    while worked > IDLE and time.monotonic() < end:
        before = app.processor()
        time.sleep(2.0)
        worked = (app.processor() - before) / 2.0


def rows_of(one: Measured) -> list[Row]:
    """The table's part of one measurement."""
    name = f"{one.people} people, {one.web} web"
    goal = (one.people, one.web) == GOAL
    prompts = one.seen.prompts or [float("nan")]
    pages = one.seen.of_pages() or [float("nan")]
    work = (
        f"{len(one.seen.prompts)} prompts, {len(one.seen.of_pages())} pages in {one.seconds:.0f} s"
    )
    share = f"servers {one.processor:.0f} s of processor, people {one.people_processor:.0f} s"
    failed = "; ".join(one.seen.failed[:SHOWN])
    return [
        Row(f"{name}: prompt, p50", statistics.median(prompts), "s", digits=2, note=work),
        Row(
            f"{name}: prompt, p95",
            percentile(prompts, 0.95),
            "s",
            limit=LIMIT_P95 if goal else None,
            aim=None if goal else LIMIT_P95,
            digits=2,
            note=share,
        ),
        Row(f"{name}: page, p50", statistics.median(pages), "s", digits=2),
        Row(f"{name}: page, p95", percentile(pages, 0.95), "s", digits=2),
        Row(f"{name}: refused", one.seen.refused, "", limit=0, digits=0),
        Row(f"{name}: mixed", one.seen.mixed, "", limit=0, digits=0),
        Row(f"{name}: failed", len(one.seen.failed), "", limit=0, digits=0, note=failed),
        Row(
            f"{name}: memory of all processes",
            max(one.watched.memory) / 1e9,
            "GB",
            limit=LIMIT_MEMORY,
            digits=2,
        ),
        Row(
            f"{name}: descriptors at most",
            max(one.watched.descriptors),
            "",
            digits=0,
            note=f"{one.left} more than before when all had gone, for tabs that may come back",
        ),
    ]


def soak_rows(one: Measured) -> list[Row]:
    """What a soak adds: growth from its first tenth to its last."""
    tenth = max(1, len(one.watched.memory) // 10)
    growth = _grown(one.watched.memory, tenth) / 1e6
    files = _grown(one.watched.descriptors, tenth)
    return [
        Row("growth of memory", growth, "MB", limit=LIMIT_GROWTH, digits=0),
        Row("growth of descriptors", files, "", limit=LIMIT_DESCRIPTORS, digits=0),
    ]


def _grown(values: Sequence[int], tenth: int) -> float:
    warm = values[tenth : 2 * tenth] or values[:1]
    return statistics.median(values[-tenth:]) - statistics.median(warm)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks hosted",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--people", type=int, nargs="+", default=PEOPLE)
    parser.add_argument("--web", type=int, nargs="+", default=WEB, help="web processes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--think", type=float, default=THINK, help="seconds, on average")
    parser.add_argument(
        "--soak",
        type=float,
        nargs="?",
        const=SOAK_MINUTES,
        metavar="MINUTES",
        help=f"{SOAK_PEOPLE} people on two web processes for so long (default: {SOAK_MINUTES:.0f})",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the bundled model")
    parser.add_argument(
        "--ids", action="store_true", help="send token ids, for a model without a tokenizer"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table; returns 1 where a limit is broken, 2 where nothing ran."""
    args = _parser().parse_args(argv)
    soak = args.soak is not None
    if soak and args.web == WEB:
        args.web = (2,)
    if soak and args.people == PEOPLE:
        args.people = (SOAK_PEOPLE,)
    seconds = 60 * args.soak if soak else args.seconds
    rows: list[Row] = []
    try:
        for web in args.web:
            with hosted(web, args.checkpoint) as app:
                asyncio.run(use(app.addresses, web, 3 * args.think, ids=args.ids, think=args.think))
                _until_settled(app)
                for people in args.people:
                    one = measured(app, people, seconds, ids=args.ids, think=args.think)
                    rows += rows_of(one) + (soak_rows(one) if soak else [])
                    print(f"{people} people on {web} web: done", file=sys.stderr, flush=True)
    except RuntimeError as error:
        print(f"benchmarks hosted: {error}", file=sys.stderr)
        return 2
    print(f"The hosted app, {args.think:g} s of thought between two presses")
    print(table(rows))
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())
