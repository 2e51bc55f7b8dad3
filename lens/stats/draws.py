"""Numbers of draws of a null: those that can be asked for, and those that are affordable."""

from __future__ import annotations

from lens.errors import LensError
from lens.stats.permutation_tests import DRAWS

MIN_DRAWS = 19
MAX_DRAWS = 100_000


def check_draws(draws: int) -> int:
    """The number of draws, if it is one that can be made.

    Raises:
        LensError: it is below 19, so that nothing could reach p = 0.05, or huge.
    """
    if not MIN_DRAWS <= draws <= MAX_DRAWS:
        raise LensError(
            f"draws: found {draws}; expected {MIN_DRAWS} to {MAX_DRAWS:,}. With fewer than "
            f"{MIN_DRAWS}, no p-value "
            "could be 0.05."
        )
    return draws


def affordable_draws(work: float, draws: int = DRAWS, *, most: float = 3e8) -> int:
    """As many draws as asked for, fewer (but at least 199) where each takes long.

    Args:
        work: array elements that one draw goes through.
        draws: asked for.
        most: elements to go through in all.
    """
    return int(max(min(draws, most / max(work, 1.0)), min(draws, 199)))
