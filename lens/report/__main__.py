"""Every figure and every table of a router set as files, without a browser.

python -m lens.report --input routers.npz --output-dir figures
    [--trace trace.npz] [--traces DIR [--labels FILE]] [--checkpoint DIR]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lens.errors import LensError
from lens.layers.draws import DRAWS
from lens.layers.references import REFERENCES
from lens.layers.similarity import LAYER_METRICS
from lens.many_prompts.trace_folder import TraceFolder, load_folder
from lens.report.parts import Part, Settings, in_section
from lens.report.write import CLEAR_LINE, write_report
from lens.routers.router_set import VIEWS, RouterSet, layer_labels, load_routers
from lens.traces.trace import load_trace
from lens.words import fixed

BETWEEN = 5.0  # seconds between two lines of progress, unless told otherwise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lens.report",
        description="Write every figure (PNG, SVG) and table (CSV) of a router set.",
    )
    parser.add_argument("--input", required=True, metavar="FILE", help="routers .npz")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--trace", metavar="FILE", help="trace .npz: adds the figures of a prompt")
    parser.add_argument(
        "--traces", metavar="DIR", help="folder of trace .npz files: adds those of many prompts"
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="CSV or JSONL with the columns file and label, of --traces"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="checkpoint of these routers: adds what each expert listens to",
    )
    parser.add_argument(
        "--view", choices=VIEWS, default="canonical", help="which form of the routers is compared"
    )
    parser.add_argument(
        "--metric", choices=list(LAYER_METRICS), default="cka", help="similarity of layers"
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of t-SNE and UMAP (default 42)")
    parser.add_argument(
        "--draws", type=int, default=DRAWS, help=f"draws of every null (default {DRAWS})"
    )
    parser.add_argument("--null-seed", type=int, default=0, help="seed of the nulls (default 0)")
    parser.add_argument(
        "--reference",
        choices=REFERENCES,
        default="shared",
        help="what pairs of layers and groups are set against (default: the directions that all "
        "layers share)",
    )
    parser.add_argument(
        "--directions",
        type=int,
        metavar="M",
        help="largest shared directions to take away first (default: by rule)",
    )
    parser.add_argument(
        "--progress",
        type=float,
        default=BETWEEN,
        metavar="SECONDS",
        help=f"between two lines of progress in a file or a pipe (default {BETWEEN:g})",
    )
    return parser


def _terminal_progress(done: int, total: int, name: str) -> None:
    print(f"{CLEAR_LINE}[{done + 1}/{total}] {name}", end="", file=sys.stderr, flush=True)


def _log_progress(seconds: float) -> Callable[[int, int, str], None]:
    """Progress for a file or a pipe: a line when the work begins and every so many seconds."""
    begun = told = time.monotonic()

    def tell(done: int, total: int, name: str) -> None:
        nonlocal told
        now = time.monotonic()
        if done == 0 or now - told >= seconds:
            told = now
            print(
                f"[{done + 1}/{total}] {name} ({fixed(now - begun, 0)} s)",
                file=sys.stderr,
                flush=True,
            )

    return tell


def _traces(folder: str | None, labels: str | None) -> TraceFolder | None:
    if folder is None:
        return None
    return load_folder(folder, labels)


def _vocabulary(routers: RouterSet, checkpoint: str | None) -> list[Part]:
    """Read-out of the vocabulary, where the checkpoint is at hand."""
    if checkpoint is None:
        return []
    from lens.report.vocabulary import vocabulary_parts
    from lens.vocabulary.from_checkpoint import checkpoint_readout

    readout, piece = checkpoint_readout(routers, checkpoint)
    return in_section(
        "Vocabulary", vocabulary_parts(readout, routers, layer_labels(routers), piece)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 with a message on an expected failure."""
    options = _parser().parse_args(arguments)
    shown = sys.stderr.isatty()
    try:
        for name in ("seed", "null_seed"):
            if not 0 <= getattr(options, name) < 2**32:
                raise LensError(
                    f"--{name.replace('_', '-')}: found {getattr(options, name)}; expected 0 to "
                    f"{2**32 - 1}."
                )
        if options.labels and not options.traces:
            raise LensError("--labels: names the traces of --traces; give that folder too.")
        routers = load_routers(Path(options.input))
        settings = Settings(
            options.view,
            options.metric,
            options.seed,
            options.draws,
            options.null_seed,
            options.reference,
            options.directions,
        )
        report = write_report(
            routers,
            options.output_dir,
            settings,
            trace=load_trace(Path(options.trace)) if options.trace else None,
            traces=_traces(options.traces, options.labels),
            more=_vocabulary(routers, options.checkpoint),
            progress=_terminal_progress if shown else _log_progress(options.progress),
        )
    except LensError as error:
        print(f"{CLEAR_LINE * shown}lens.report: {error}", file=sys.stderr)
        return 2
    if shown:
        print(CLEAR_LINE, end="", file=sys.stderr)
    for reason in dict.fromkeys(report.skipped.values()):
        names = [name for name, why in report.skipped.items() if why == reason]
        print(f"skipped {', '.join(names)}: {reason}", file=sys.stderr)
    print(f"{len(report.files)} files in {report.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
