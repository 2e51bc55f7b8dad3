"""The app as its own process, and the browser that looks at it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT = 300  # seconds


def launch_arguments() -> dict[str, Any]:
    """The Chromium that CHROMIUM names or Debian ships, else Playwright's own."""
    names = (os.environ.get("CHROMIUM") or "chromium-headless-shell", "chromium")
    found = next(filter(None, map(shutil.which, names)), None)
    own = {"executable_path": found} if found else {}
    # A machine for tests has no graphics card; Chromium would imitate one. And no page is open for
    # so long that compiling its scripts a second time, with optimisations, would pay: a tenth less.
    quick = "--js-flags=--no-opt --no-maglev"
    return {**own, "args": ["--no-sandbox", "--disable-gpu", quick]}


@contextmanager
def serving(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    command: Sequence[str] = ("-m", "streamlit"),
    *,
    port: int | None = None,
    quiet: bool = True,
) -> Iterator[str]:
    """The address of the app, served on a free port by its own process.

    Args:
        folder: for its log and its runs.
        settings: of the environment, besides what is there without the app's own.
        command: arguments of Python that stand for Streamlit's command.
        port: to listen on; None takes a free one.
        quiet: whether a traceback in its log fails the test.
    """
    if port is None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
    log = folder / "log.txt"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GROK_LENS_")}
    environment["GROK_LENS_PRELOAD"] = "off"  # most servers of the tests run no prompt
    environment["GROK_LENS_RUNS"] = str(folder / "runs")
    environment["GROK_LENS_NOTES"] = str(folder / "notes")
    environment |= settings or {}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "run", "app.py", "--server.port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=120)
    assert not quiet or "Traceback" not in log.read_text(errors="replace")


def _wait_until_healthy(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"not healthy after {START_LIMIT} s: {log.read_text(errors='replace')}")
