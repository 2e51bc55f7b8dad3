"""Routed texts: files, loads, margins, co-selection, information."""

from lens.traces.protocols import RoutedText, RoutedTokens
from lens.traces.trace import Trace, load_trace

__all__ = [
    "RoutedText",
    "RoutedTokens",
    "Trace",
    "load_trace",
]
