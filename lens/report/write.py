"""Every figure and every table of a router set as files, without a browser.

    python -m lens.report --input routers.npz --output-dir figures
        [--trace trace.npz] [--traces DIR [--labels FILE]] [--checkpoint DIR]

Each figure is written as PNG and SVG, each table as CSV, and `report.html` is all of it on
one page that opens offline. `report.json` lists the files and says what they were computed
from; images carry the same inside. All of it is made
in a folder of its own first and moved into place at the end, so that a failed run
leaves nothing behind and an earlier report as it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lens import report_html, report_parts, report_traces
from lens.caveats import caveats
from lens.errors import LensError
from lens.gram import effective_dimension
from lens.layer_null import DRAWS, check_draws
from lens.report_files import write_folder
from lens.report_findings import findings_of
from lens.report_parts import Part, RouterNumbers, Settings, in_section
from lens.routers import VIEWS, RouterSet, load_routers
from lens.similarity import LAYER_METRICS
from lens.trace_folder import TraceFolder, load_folder
from lens.traces import Trace, load_trace

INDEX = "report.json"
PAGE = "report.html"
FORMAT_VERSION = 1
CLEAR_LINE = "\r\033[K"


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
      folder: where.
      files: names in it, the index included.
      skipped: names of figures that could not be made, and why.
    """

    folder: Path
    files: list[str]
    skipped: dict[str, str] = field(default_factory=dict)


def write_report(
    routers: RouterSet,
    folder: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    trace: Trace | None = None,
    traces: TraceFolder | None = None,
    more: Sequence[Part] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Writes all figures, tables and the page into a folder, whole or not at all.

    Files of other names that are in the folder already stay.

    Args:
      routers: the set.
      folder: made if it does not exist; its parent has to.
      settings: view, metric and seed.
      trace: adds the figures of a prompt.
      traces: adds those of many prompts.
      more: further parts.
      progress: called with files done, files in all, and the next name.

    Raises:
      LensError: the folder cannot be written.
    """
    settings = settings or Settings()
    check_draws(settings.draws)
    numbers = RouterNumbers(routers, settings)
    parts = [*report_parts.router_parts(numbers), *more]
    if trace is not None:
        parts += in_section("Prompt", report_traces.trace_parts(trace, routers, settings))
    if traces is not None:
        parts += in_section("Many prompts", report_traces.trace_folder_parts(traces, routers))
    about = _about(routers, settings, trace)
    names, skipped = write_folder(
        folder,
        parts,
        about,
        lambda entries, skipped, work: _page(numbers, about, entries, skipped, work),
        page_file=PAGE,
        index_file=INDEX,
        title="Routing report",
        progress=progress,
    )
    return Report(Path(folder), names, skipped)


def _page(
    numbers: RouterNumbers,
    about: dict[str, Any],
    entries: Sequence[report_html.Entry],
    skipped: dict[str, str],
    work: Path,
) -> str:
    """The report on one page, from the files that were written."""
    routers, settings = numbers.routers, numbers.settings
    shape = f"{routers.n_layers} layers × {routers.n_experts} experts, width {routers.d_model:,}"
    dimension = effective_dimension(numbers.gram)
    facts = [
        ("Routers", f"{shape}, top {routers.top_k}, {routers.score}"),
        ("SHA-256", routers.sha256),
        ("Norm scales", about["norm_scales"]),
        ("View", settings.view),
        ("Layer metric", LAYER_METRICS[settings.metric].label),
        ("Nulls", f"{settings.draws:,} draws, seed {settings.null_seed}"),
        ("Seed of maps", str(settings.seed)),
        ("Effective dimension", f"{dimension:,.1f} of {routers.n_layers * routers.n_experts:,}"),
        (
            "Made by",
            f"python -m lens.report --input FILE --output-dir DIR --view {settings.view} "
            f"--metric {settings.metric} --seed {settings.seed} --draws {settings.draws} "
            f"--null-seed {settings.null_seed}",
        ),
        *(("Note", sentence) for sentence in caveats(routers)),
    ]
    return report_html.page(
        f"Routing report: {routers.source}",
        f"{routers.source} · {about['program']}",
        facts,
        findings_of(numbers),
        entries,
        skipped,
        work,
        answers=numbers.answers,
    )


def _about(routers: RouterSet, settings: Settings, trace: Trace | None) -> dict[str, Any]:
    about: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "program": f"grok-moe-lens {report_parts.version()}",
        "source": routers.source,
        "sha256": routers.sha256,
        "n_layers": routers.n_layers,
        "n_experts": routers.n_experts,
        "d_model": routers.d_model,
        "top_k": routers.top_k,
        "layer_ids": np.asarray(routers.layer_ids).tolist(),
        "norm_scales": "known" if routers.norm_scales is not None else "unknown",
        "settings": asdict(settings),
    }
    if trace is not None:
        about["trace"] = {
            "model_sha256": trace.model_sha256,
            "n_tokens": trace.n_tokens,
            "prompt_length": trace.prompt_length,
        }
    return about


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
    return parser


def _terminal_progress(done: int, total: int, name: str) -> None:
    print(f"{CLEAR_LINE}[{done + 1}/{total}] {name}", end="", file=sys.stderr, flush=True)


def _traces(folder: str | None, labels: str | None) -> TraceFolder | None:
    if folder is None:
        return None
    return load_folder(folder, labels)


def _vocabulary(routers: RouterSet, checkpoint: str | None) -> list[Part]:
    """What each expert listens to, where the checkpoint is at hand."""
    if checkpoint is None:
        return []
    from lens.extract_embedding import checkpoint_readout
    from lens.report_vocabulary import vocabulary_parts

    readout, piece = checkpoint_readout(routers, checkpoint)
    labels = [routers.label(layer) for layer in range(routers.n_layers)]
    return in_section("Vocabulary", vocabulary_parts(readout, routers, labels, piece))


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
            options.view, options.metric, options.seed, options.draws, options.null_seed
        )
        report = write_report(
            routers,
            options.output_dir,
            settings,
            trace=load_trace(Path(options.trace)) if options.trace else None,
            traces=_traces(options.traces, options.labels),
            more=_vocabulary(routers, options.checkpoint),
            progress=_terminal_progress if shown else None,
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
