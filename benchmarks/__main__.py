"""`python -m benchmarks [NAME ...]`: runs the benchmarks, all of them or those named.

States the machine, prints one table for each, and ends with 1 when a stated limit
is broken. Times depend on what else runs; ratios come from one run each.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

CLAIMS = {
    "extraction": "what extraction reads, holds and takes on a full-size checkpoint",
    "measures": "the time of all static measures on routers of Grok-1's size",
    "science": "every measure and null: time, memory, and the obvious way beside it",
    "live": "traces, interventions, sweeps, generation, many prompts, dispatch",
    "features": "a route explained: account, flips and their check, graph, of 64 tokens",
    "app": "server start, page switches and reruns, seen from a browser",
    "hosted": "people at once on one and two web processes: waits, refusals, mixing, memory",
    "products": "products of 1 to 256 rows with stored weights: the chosen way beside all others",
    "families": "models of other families beside transformers: time, memory, the disk's rate",
    "dictionaries": "training steps of dictionaries: rate, activations, memory, meshes",
    "hub": "requests and bytes that routers cost from the Hub, counted by a local server",
    "gpu": "a full-size layer on a GPU against its limits, and layers streamed to it",
    "fullsize": "a pass over a checkpoint of Grok-1's widths, 13 GB: disk, overlap, memory",
}
WITH_CHECKPOINT = {"live", "features", "app", "hosted"}
# Run only when named: two write gigabytes, one takes a quarter of an hour.
NAMED_ONLY = {"fullsize", "families", "hosted"}


def listing() -> str:
    """The names and what they measure."""
    width = max(map(len, CLAIMS))
    return "\n".join(f"{name:<{width}}  {claim}" for name, claim in CLAIMS.items())


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 1 when a limit is broken, 2 for unusable input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="default: all but fullsize, families and hosted"
    )
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="model of live, features, app and hosted (default: the bundled one)",
    )
    args, rest = parser.parse_known_args(argv)
    if args.list:
        print(listing())
        return 0
    unknown = [name for name in args.names if name not in CLAIMS]
    if unknown:
        print(
            f"benchmarks: there is no {', '.join(map(repr, unknown))}; "
            f"expected one of {', '.join(CLAIMS)}.",
            file=sys.stderr,
        )
        return 2
    if rest and len(args.names) != 1:
        parser.error(f"{' '.join(rest)}: options of a benchmark go with its name alone")
    print(machine(), flush=True)
    worst = 0
    usual = [name for name in CLAIMS if name not in NAMED_ONLY]
    for name in dict.fromkeys(args.names or usual):
        print(f"\n== {name}", flush=True)
        options = (
            ["--checkpoint", str(args.checkpoint)]
            if args.checkpoint is not None and name in WITH_CHECKPOINT
            else []
        ) + rest
        worst = max(worst, module_of(name).main(options))
    return worst


def module_of(name: str) -> Any:
    """The module with the `main` of a benchmark."""
    module = importlib.import_module(f"benchmarks.{name}")
    folder = hasattr(module, "__path__")
    return importlib.import_module(f"benchmarks.{name}.command") if folder else module


if __name__ == "__main__":
    sys.exit(main())
