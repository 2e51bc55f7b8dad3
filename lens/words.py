"""Numbers, and lists of names, as they stand in sentences, titles and tables.

Every p-value, share and effect that a page, a figure or the report puts into words is
written by one of these functions, with a minus sign that is one ("−", not a hyphen). CSV files
and tables of numbers keep all digits and don't come here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_SHOWN = 1e-4
"""Smaller p-values are written "< 0.0001": their tails are no longer known."""


def p_value_text(p_value: float, draws: int | None = None, *, bound: bool = False) -> str:
    """A p-value or q-value with its sign of relation, to be written after "p " or "q ".

    "= 0.03"; "≤ 0.005" for the least that a number of draws can give, where more draws could
    have given less; "< 0.0001" below that; "unknown" for not a number.

    Args:
        p_value: from 0 to 1.
        draws: of the null behind it; None where it is exact or comes from a fitted tail.
        bound: it is at most this whatever its size, as an adjusted p-value whose own is the
            least that its draws can give.
    """
    if not np.isfinite(p_value):
        return "unknown"
    if p_value < LEAST_SHOWN:
        return "< 0.0001"
    at_least = draws is not None and p_value <= (1 + 1e-9) / (1 + draws)
    return f"{'≤' if bound or at_least else '='} {p_value:.2g}"


def significant(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A number to so many significant digits: "0.123", "−12.3", "1.23e−05"; see `fixed`."""
    return _with_minus(f"{value:+.{digits}g}" if sign else f"{value:.{digits}g}")


def fixed(value: float, decimals: int, *, sign: bool = False) -> str:
    """A number to so many decimals, with `sign` also where it is above 0: "+1.500", "−0.250".

    Thousands are set apart by a comma, as everywhere: "1,128".
    """
    return _with_minus(f"{value:+,.{decimals}f}" if sign else f"{value:,.{decimals}f}")


def plain(value: float) -> str:
    """Two digits that count, never as a power of ten: "0.45", "0.0025", "0.000014".

    "–" for not a number.
    """
    if not np.isfinite(value):
        return "–"
    if abs(value) >= 0.1:
        return fixed(value, 2)
    return _with_minus(np.format_float_positional(value, precision=2, fractional=False, trim="-"))


def similarity_text(value: float) -> str:
    """A similarity, with more digits where it is near 0 or near 1: "0.500", "0.99970", "0.0021"."""
    if value > 0.995 and value != 1:
        return fixed(value, 5)
    return fixed(value, 3) if abs(value) >= 0.01 or value == 0 else significant(value, 2)


def percent(share: float, decimals: int = 0) -> str:
    """A share as it is written in a sentence: "12.5 %", with a space that doesn't break."""
    return f"{fixed(100 * share, decimals)}\u00a0%"


def whole_percent(share: float) -> str:
    """A share in whole percent, 100 only where nothing is missing."""
    return percent(min(share, 0.99) if share < 1 else 1.0)


def ratio_in_words(value: float, other: float) -> str:
    """How many times as much one is as the other, in words."""
    if other <= 0.01 * value:
        return "far more than"
    if value < 1.05 * other:
        return "hardly more than"
    ratio = value / other
    return f"{ratio:.0f} times as much as" if ratio >= 9.5 else f"{ratio:.2g} times as much as"


def counted(number: int, noun: str) -> str:
    """How many of something: "1 pair", "12 pairs", "1,200 tokens"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "a, b and c"."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def begun(text: str) -> str:
    """Words at the start of a sentence."""
    return f"{text[:1].upper()}{text[1:]}"


def _with_minus(text: str) -> str:
    return text.replace("-", "−")
