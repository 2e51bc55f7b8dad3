"""Space that the files of a folder take."""

from __future__ import annotations

import os
from pathlib import Path


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder and below it; 0 where it is not there."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(inner, name)).st_size
            except OSError:
                pass  # deleted meanwhile
    return total
