"""Numbers as they stand in sentences, titles and tables."""

from __future__ import annotations

import numpy as np


def p_number(p_value: float, least: float) -> str:
    """A p-value to two digits; none where draws or tails can't tell it."""
    if p_value < 1e-4:
        return "< 0.0001"
    return f"{'≤' if p_value <= least else '='} {p_value:.2g}"


def number(value: float) -> str:
    """Three significant digits, with a minus sign that is one."""
    text = f"{value:.3g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"
    return text.replace("-", "−")


def p_words(p_value: float, draws: int) -> str:
    """A p-value of so many draws: "p = 0.03", or "p ≤ 0.005" for the least they can give."""
    if not np.isfinite(p_value):
        return "p unknown"
    return f"p {'≤' if p_value <= (1 + 1e-9) / (1 + draws) else '='} {p_value:.2g}"


def number_words(value: float) -> str:
    """Two digits that count, never as a power of ten: "0.45", "0.0025", "0.000014"."""
    if not np.isfinite(value):
        return "–"
    if abs(value) >= 0.1:
        return f"{value:.2f}".replace("-", "−")
    text = np.format_float_positional(value, precision=2, fractional=False, trim="-")
    return text.replace("-", "−")


def digits(value: float) -> str:
    """A similarity, with more digits where it is near 0 or near 1."""
    if value > 0.995 and value != 1:
        text = f"{value:.5f}"
    else:
        text = f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
    return text.replace("-", "−")


def short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def percent(share: float, digits: int = 0) -> str:
    """A share as it is written in a sentence: "12.5 %", with a space that doesn't break."""
    return f"{100 * share:.{digits}f}\u00a0%"


def p_text(p_value: float) -> str:
    """A p-value as it is usually written."""
    return "< 0.0001" if p_value < 1e-4 else f"= {p_value:.2g}"
