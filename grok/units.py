"""Bytes and times for people."""

from __future__ import annotations

from grok.errors import GrokError


def size(n_bytes: float) -> str:
    """Bytes for a reader: "318 GB", "4.9 GB", "12.6 MB"."""
    if n_bytes >= 1e8:
        return f"{n_bytes / 1e9:,.{0 if n_bytes >= 1e10 else 1}f} GB"
    return f"{n_bytes / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """A time for a reader, in the unit that suits it."""
    if seconds < 0.1:
        return "less than 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


def budget_bytes(gigabytes: float | None) -> int | None:
    """Bytes of a command's --memory-budget; None where none is given.

    Raises:
        GrokError: it is no number of gigabytes above 0.
    """
    if gigabytes is None:
        return None
    if not 0 < gigabytes < 1e6:
        raise GrokError(f"--memory-budget is {gigabytes:g}; expected gigabytes, such as 8.")
    return int(gigabytes * 1e9)
