"""Every figure and every table of a router set as files, without a browser.

Each figure is written as PNG and SVG, each table as CSV, and `report.html` is all of it on
one page that opens offline. `report.json` lists the files and says what they were computed
from; images carry the same inside. All of it is made
in a folder of its own first and moved into place at the end, so that a failed run
leaves nothing behind and an earlier report as it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lens.layers.references import REFERENCE_LABELS
from lens.layers.similarity import LAYER_METRICS
from lens.many_prompts.trace_folder import TraceFolder
from lens.report import contents
from lens.report import page as report_html
from lens.report import traces as report_traces
from lens.report.files import write_folder
from lens.report.findings import findings_of
from lens.report.numbers import RouterNumbers
from lens.report.parts import Part, Settings, in_section
from lens.routers.caveats import caveats
from lens.routers.effective_dimension import unbiased_dimension
from lens.routers.router_set import RouterSet
from lens.stats.draws import check_draws
from lens.traces.trace import Trace
from lens.version import version
from lens.words import fixed

INDEX = "report.json"
PAGE = "report.html"
FORMAT_VERSION = 1
CLEAR_LINE = "\r\033[K"


@dataclass(frozen=True)
class Report:
    """Files that were written.

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
    parts = [*contents.router_parts(numbers), *more]
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
    dimension = "needs two layers"
    if routers.n_layers > 1:
        dimension = f"{fixed(unbiased_dimension(numbers.gram), 1)} of {routers.d_model:,}"
    facts = [
        ("Routers", f"{shape}, top {routers.top_k}, {routers.score}"),
        ("SHA-256", routers.sha256),
        ("Norm scales", about["norm_scales"]),
        ("View", settings.view),
        ("Layer metric", LAYER_METRICS[settings.metric].label),
        ("Nulls", f"{settings.draws:,} draws, seed {settings.null_seed}"),
        ("Seed of maps", str(settings.seed)),
        ("Effective dimension", dimension),
        ("Pairs of layers against", REFERENCE_LABELS[numbers.reference]),
        (
            "Made by",
            f"python -m lens.report --input FILE --output-dir DIR {' '.join(settings.options)}",
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
        "program": f"grok-moe-lens {version()}",
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
