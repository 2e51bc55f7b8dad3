"""Routed texts: files, loads, margins, co-selection, information."""

from lens.traces.trace import Trace, load_trace

__all__ = [
    "Trace",
    "load_trace",
]
