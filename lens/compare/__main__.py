"""Which layers and experts differ between two router sets.

    python -m lens.compare A.npz B.npz [--output-dir DIR]

Prints what was found, each statement beside its null. With an output folder it also
writes tables (CSV), figures (PNG, SVG) and `compare.html`, one page with all of it that
opens offline: whole, or not at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lens.compare.findings import findings_of
from lens.compare.headline import headline
from lens.compare.parts import compare_parts
from lens.errors import LensError
from lens.layers.draws import DRAWS, SEED
from lens.layers.similarity import LAYER_METRICS
from lens.model_pairs.comparison import (
    Comparison,
    Structure,
    compare_routers,
    compare_structure,
    why_not_directions,
)
from lens.model_pairs.depth_profiles import Profile, depth_profiles
from lens.report import page as report_html
from lens.report.files import write_folder
from lens.routers.caveats import caveats
from lens.routers.router_set import VIEWS, RouterSet, load_routers
from lens.version import version

INDEX = "compare.json"
PAGE = "compare.html"
TITLE = "Two router sets"


def summary(
    a: RouterSet,
    b: RouterSet,
    found: Comparison | None,
    alike: Structure,
    profiles: Sequence[Profile] = (),
) -> list[str]:
    """Findings of the comparison, a sentence or two a line."""
    sections = findings_of(a, b, found, alike, profiles)
    return [line for lines in sections.values() for line in lines]


def origin(routers: RouterSet) -> str:
    """A set in a line."""
    return (
        f"{routers.source}, {routers.n_layers} layers of {routers.n_experts} experts, "
        f"width {routers.d_model:,}, SHA-256 {routers.sha256[:12]}"
    )


def write(
    folder: Path,
    a: RouterSet,
    b: RouterSet,
    found: Comparison | None,
    alike: Structure,
    profiles: list[Profile],
    *,
    view: str = "canonical",
    metric: str = "cka",
) -> tuple[list[str], dict[str, str]]:
    """Tables, figures and the page in a folder; its other files stay.

    Returns:
        Names of the files, and the reasons of what was left out.

    Raises:
        LensError: the folder cannot be written.
    """
    settings = {"view": view, "metric": metric, "draws": alike.draws, "seed": alike.seed}
    about: dict[str, Any] = {
        "format_version": 1,
        "program": f"grok-moe-lens {version()}",
        "A": {"source": a.source, "sha256": a.sha256},
        "B": {"source": b.source, "sha256": b.sha256},
        "settings": settings,
    }
    sections = findings_of(a, b, found, alike, profiles)
    index = {**about, "findings": sections}
    facts = [
        ("In short", headline(a, found, alike, "").sentence),
        ("A", origin(a)),
        ("B", origin(b)),
        ("View", view),
        ("Layer metric", LAYER_METRICS[metric].label),
        ("Nulls", f"{alike.draws:,} draws, seed {alike.seed}"),
        (
            "Made by",
            f"python -m lens.compare A.npz B.npz --output-dir DIR --view {view} --metric {metric} "
            f"--draws {alike.draws} --seed {alike.seed}",
        ),
        *(
            (f"Note on {name}", sentence)
            for name, routers in (("A", a), ("B", b))
            for sentence in caveats(routers)
        ),
    ]

    def page(entries: Sequence[report_html.Entry], skipped: dict[str, str], work: Path) -> str:
        return report_html.page(TITLE, about["program"], facts, sections, entries, skipped, work)

    parts = compare_parts(a, b, found, profiles)
    return write_folder(folder, parts, index, page, page_file=PAGE, index_file=INDEX, title=TITLE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lens.compare",
        description="Which layers and experts differ between two router sets, with nulls.",
    )
    parser.add_argument("a", metavar="A.npz", type=Path, help="the first router set")
    parser.add_argument("b", metavar="B.npz", type=Path, help="the second router set")
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="folder for tables, figures and the page"
    )
    parser.add_argument(
        "--view", choices=VIEWS, default="canonical", help="which form of the routers is compared"
    )
    parser.add_argument(
        "--metric", choices=list(LAYER_METRICS), default="cka", help="similarity of layers"
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"of each null (default {DRAWS})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the nulls (default {SEED})")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 with a message on an expected failure."""
    options = _parser().parse_args(arguments)
    view, metric = options.view, options.metric
    try:
        if not 0 <= options.seed < 2**32:
            raise LensError(f"--seed: found {options.seed}; expected 0 to {2**32 - 1}.")
        a, b = load_routers(options.a), load_routers(options.b)
        settings = {"draws": options.draws, "seed": options.seed}
        found = None
        if why_not_directions(a, b) is None:
            found = compare_routers(a, b, view, metric, **settings)
        alike = compare_structure(a, b, view, **settings)
        profiles = depth_profiles(a, b, view, **settings)
        for name, routers in (("A", a), ("B", b)):
            print(f"{name}: {origin(routers)}")
            for sentence in caveats(routers):
                print(f"{name}: {sentence}")
        told = summary(a, b, found, alike, profiles)
        print(headline(a, found, alike, "").sentence, *told, sep="\n")
        if options.output_dir is not None:
            names, skipped = write(
                options.output_dir, a, b, found, alike, profiles, view=view, metric=metric
            )
            for name, why in skipped.items():
                print(f"skipped {name}: {why}", file=sys.stderr)
            print(f"{len(names)} files in {options.output_dir}")
    except LensError as error:
        print(f"lens.compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
