"""Output files that appear whole or not at all, damaged ones, put out of the way, and the folder of
what can be computed again."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

CACHE_VARIABLE = "GROK_LENS_CACHE"
DAMAGED = "damaged-"
_ASIDE = re.compile(DAMAGED + r"\d{4}-\d\d-\d\d-\d{6}-(?:\d{1,2}-)?(.+)")


def cache_folder() -> Path:
    """The folder named by GROK_LENS_CACHE, else the platform's place for caches."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "grok-moe-lens"


def set_aside(path: Path) -> Path | None:
    """Renames a damaged file or folder to "damaged-WHEN-NAME" beside it; nothing is deleted.

    Returns:
        Where it is now; None where it stays, because it has gone or its folder cannot be
        written: then it is refused again.
    """
    when = time.strftime("%Y-%m-%d-%H%M%S", time.gmtime())
    place = path.with_name(f"{DAMAGED}{when}-{path.name}")
    for number in range(2, 100):
        if not place.exists():
            break
        place = path.with_name(f"{DAMAGED}{when}-{number}-{path.name}")
    try:
        os.rename(path, place)
    except OSError:
        return None
    return place


def set_aside_in(folder: Path) -> set[str]:
    """Names of what was set aside in a folder, where nothing has taken its place since."""
    try:
        found = {m[1] for name in os.listdir(folder) if (m := _ASIDE.fullmatch(name))}
    except OSError:
        return set()
    return {name for name in found if not (folder / name).exists()}


def write_whole(path: str | Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Writes beside `path`, then moves the result there, making the folder if need be.

    Args:
        path: the file; an older one is replaced only by a complete one.
        content: the bytes, or a function that writes them to an open binary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
