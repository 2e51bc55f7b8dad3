"""Which of several ways to compute the same is fastest on this machine, by measuring them once.

Runs of the ways take turns, so what else the machine does meets all of them. What was found is
kept by processor and versions in the folder for what can be computed again; where that cannot be
read or written, it is measured anew by every process; so it is where the machine was too busy for
the times to be trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from grok.errors import GrokError
from grok.files import cache_folder, write_whole

VARIABLE = "GROK_LENS_PRODUCTS"
MEASURED, OFF = "measured", "off"
NAMES = ("plain", "float32", "bfloat16", "filled", "sums", "vectors")
ROWS = (1, 4, 16, 32, 64, 256)
"""Rows that are measured; other numbers take the way of the next larger one."""
WORTH = {"vectors": 1.2}
"""Ways that are taken only where every other takes so many times as long: hand-written loops."""
SECONDS = 0.15  # to measure one way with
LEAST, MOST = 3, 30  # rounds
BUSY = 2.0  # processes that want to run for each processor, above which nothing is kept
FORMAT = 4
_PACKAGES = ("jax", "jaxlib", "numpy", "numba", "llvmlite")
_FILE_BYTES = 2**20

Trials = Callable[[int], Mapping[str, Callable[[], object]]]
"""Of a number of rows: runs of each way, by name, the first of which compiles."""

_lock = threading.RLock()
_known: dict[str, str] = {}


def chosen(kind: str, dtype: str, rows: int, names: Sequence[str], trials: Trials) -> str:
    """The name of the fastest way for such weights, dtype of rows and number of rows.

    Args:
        kind: of the weights.
        dtype: of the rows.
        rows: how many.
        names: of the ways; the first is taken where nothing is measured.
        trials: made where there is something to measure.

    Raises:
        GrokError: the variable names no way.
    """
    wanted = os.environ.get(VARIABLE) or MEASURED
    if wanted not in (MEASURED, OFF, *NAMES):
        raise GrokError(
            f"{VARIABLE} is {wanted!r:.40}; expected {MEASURED}, {OFF} or a way: "
            f"{', '.join(NAMES)}. Leave it unset to have the fastest way measured."
        )
    if wanted != MEASURED:
        return wanted if wanted in names else names[0]
    most = next((n for n in ROWS if n >= rows), ROWS[-1])
    key = f"{kind}, {dtype}, {most}"
    with _lock:
        if not _known:
            _known.update(_kept())
        if _known.get(key) not in names:
            # In a thread of its own: who asks may be in the middle of tracing a program.
            with ThreadPoolExecutor(1, "measuring") as pool:
                _known[key] = pool.submit(lambda: fastest(trials(most))).result()
            _keep(_known)
        return _known[key]


def fastest(trials: Mapping[str, Callable[[], object]]) -> str:
    """The name of the way to take, after some rounds in which each runs once."""
    return best(seconds_of(trials))


def best(seconds: Mapping[str, float]) -> str:
    """The name of the way to take, by the seconds that each takes."""
    return min(seconds, key=lambda name: seconds[name] * WORTH.get(name, 1.0))


def seconds_of(
    trials: Mapping[str, Callable[[], object]], spent: float = SECONDS
) -> dict[str, float]:
    """Seconds of the fastest run of each way; runs take turns.

    Args:
        trials: by name.
        spent: on each, after a run that compiles it. What takes several times as long as another
            in the first rounds is not run again.
    """
    for run in trials.values():
        run()
    found = dict.fromkeys(trials, float("inf"))
    began = time.perf_counter()
    for turn in range(MOST):
        least = min(found.values())
        for name, run in trials.items():
            if turn >= LEAST and found[name] > 3 * least:
                continue
            started = time.perf_counter()
            run()
            found[name] = min(found[name], time.perf_counter() - started)
        if turn + 1 >= LEAST and time.perf_counter() - began > spent * len(trials):
            break
    return found


# --- what is kept -------------------------------------------------------------------------------


@cache
def _machine() -> str:
    """The processor and the versions of what computes."""
    told = [platform.machine(), platform.processor(), f"{os.cpu_count()} processors"]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            told.append(f"{name} {version(name)}")
    return "\n".join([f"format {FORMAT}", *told])


def _file() -> Path:
    return cache_folder() / f"products-{hashlib.sha256(_machine().encode()).hexdigest()[:16]}.json"


def _kept() -> dict[str, str]:
    """What was measured before; nothing where the file is missing, damaged or of another origin."""
    try:
        with open(_file(), "rb") as file:
            found = json.loads(file.read(_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or found.get("machine") != _machine():
        return {}
    ways = found.get("ways")
    if not isinstance(ways, dict):
        return {}
    return {key: way for key, way in ways.items() if way in NAMES}


def _keep(ways: Mapping[str, str]) -> None:
    with suppress(OSError, AttributeError):  # systems that do not say
        if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
            return
    content = {"machine": _machine(), "ways": {**_kept(), **ways}}
    with suppress(OSError):
        write_whole(_file(), json.dumps(content, indent=1).encode())
