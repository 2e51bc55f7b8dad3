"""Routed texts: files, loads, margins, co-selection, information."""

from lens.traces.protocols import RoutedText, RoutedTokens, layer_numbers
from lens.traces.trace import Trace, load_trace

__all__ = [
    "RoutedText",
    "RoutedTokens",
    "Trace",
    "layer_numbers",
    "load_trace",
]
