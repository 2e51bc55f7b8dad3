"""The routing traces of this session, and the way to a new one.

Prompts and traces live in the session's state alone: not in the address, not in
a log, not in a cache that another session could read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from grok.trace import RoutingTrace
from lens.routers.router_set import RouterSet, layer_labels
from lens.traces import RoutedText, layer_numbers
from pages.shell import data_source, downloads
from pages.shell.session_keys import SessionKey, SessionValue

TRACES = SessionValue[dict[str, RoutedText]](SessionKey.TRACES)
SLOTS = {
    "first": "Prompt",
    "second": "Second prompt",
    "file": "Saved trace",
    "example": "Example",
}


def kept() -> dict[str, RoutedText]:
    """The traces of this session, by slot."""
    traces: dict[str, RoutedText] = dict(TRACES.get() or {})
    saved = data_source.uploaded_trace()
    if saved is not None:
        traces["file"] = saved[1]
    return {slot: traces[slot] for slot in SLOTS if slot in traces}


def keep(slot: str, trace: RoutedText | None) -> None:
    """Keep a trace for this session; None drops the one there was."""
    traces = TRACES.kept(dict)
    if trace is None:
        traces.pop(slot, None)
    else:
        traces[slot] = trace


def shown() -> RoutedText | None:
    """The trace shown last, or None."""
    return shown_of(kept())


def shown_of(traces: Mapping[str, RoutedText]) -> RoutedText | None:
    """The one of these that is shown, or None where there is none."""
    current = data_source.TRACE_SHOWN.get()
    return traces.get(str(current)) or next(iter(traces.values()), None)


def text_of(trace: RoutedText) -> str:
    """The text that a trace is of, as it was given and generated."""
    return "".join(str(piece) for piece in trace.pieces).replace("▁", " ").strip()


def file_bytes(trace: RoutingTrace) -> bytes:
    """The trace as an .npz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.npz"
        trace.save(path)
        return path.read_bytes()


def name_of(slot: str) -> str:
    """What a trace is called on the page, as plain text; a file by its own name."""
    saved = data_source.uploaded_trace() if slot == "file" else None
    return SLOTS[slot] if saved is None else f"{SLOTS[slot]} {data_source.short_name(saved[0])}"


def file_name(trace: RoutedText) -> str:
    """Name of the .npz of a trace: what it is, how its text begins, which model routed it."""
    generated = len(trace.tokens) > trace.prompt_length
    kind = "generation" if generated else "trace"
    words = downloads.first_words(text_of(trace))
    how = f"seed{trace.settings['seed']}" if generated and "seed" in trace.settings else ""
    return f"{downloads.file_stem(kind, trace.model_sha256, words, how)}.npz"


def labels(trace: RoutedText, routers: RouterSet) -> list[str]:
    """Names of the trace's layers: the routers' own where these made the trace."""
    if trace.model_sha256 == routers.sha256:
        return layer_labels(routers)[: len(trace.experts)]
    return [f"L{layer}" for layer in layer_numbers(trace)]
