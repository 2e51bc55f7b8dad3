"""How long runs and shared texts are kept, by a clock that may be wrong for a while."""

from __future__ import annotations

import os
from pathlib import Path

from lens.errors import LensError

KEEP_VARIABLE = "GROK_LENS_KEEP_DAYS"
KEEP_DAYS = 30.0
DAY = 24 * 3600.0


def expired(created: float, keep_days: float, now: float) -> bool:
    """True of what is older than it is kept for, in days; 0 of them are for ever."""
    return bool(keep_days) and now - created > keep_days * DAY


def due(marker: Path, is_expired: bool, now: float) -> bool:
    """True of what has been too old for a day, so that it may be cleared.

    What is too old is out of sight at once; a clock that was ahead for less than a day costs
    nothing.

    Args:
        marker: an empty file whose time says since when; made where it is not there, for which a
            full disk has room, and removed where the clock says otherwise again.
        is_expired: whether it is too old now.
        now: seconds since 1970.
    """
    try:
        if not is_expired:
            marker.unlink(missing_ok=True)
        elif marker.exists():
            return now - marker.stat().st_mtime > DAY
        else:
            marker.touch(mode=0o600)
            os.utime(marker, (now, now))
    except OSError:
        pass  # what cannot be marked cannot be cleared either
    return False


def kept_days() -> float:
    """Days that runs are kept: GROK_LENS_KEEP_DAYS, else 30; 0 is for ever.

    Raises:
        LensError: the variable holds something else.
    """
    text = os.environ.get(KEEP_VARIABLE, "").strip()
    try:
        days = float(text) if text else KEEP_DAYS
    except ValueError:
        days = -1.0
    if not 0 <= days < 1e6:
        raise LensError(
            f"{KEEP_VARIABLE} is {text[:40]!r}; expected days, such as 30, or 0 to keep runs for "
            "ever. Correct it and start again."
        )
    return days
