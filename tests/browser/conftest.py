"""The real server and a real Chromium for the journeys."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
START_LIMIT = 300  # seconds
PATIENCE = 180_000  # milliseconds that a busy machine may take

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict) -> dict:
    """The Chromium that CHROMIUM names or Debian ships, else Playwright's own."""
    own = {"executable_path": CHROMIUM} if Path(CHROMIUM).exists() else {}
    return {**browser_type_launch_args, **own, "args": ["--no-sandbox"]}


@contextmanager
def serving(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    command: Sequence[str] = ("-m", "streamlit"),
) -> Iterator[str]:
    """The address of the app, served on a free port by its own process.

    Args:
        folder: for its log and its runs.
        settings: of the environment, besides what is there without the app's own.
        command: arguments of Python that stand for Streamlit's command.
    """
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    log = folder / "log.txt"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GROK_LENS_")}
    environment["GROK_LENS_RUNS"] = str(folder / "runs")
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
    assert "Traceback" not in log.read_text(errors="replace")


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[str]]:
    """`serving`, for a server with settings of its own."""
    return serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app as it is without settings."""
    with serving(tmp_path_factory.mktemp("server")) as address:
        yield address


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


class Watch:
    """What a page complains about, and whom it asks."""

    def __init__(self, page: Page, server: str) -> None:
        self.errors: list[str] = []
        self.strangers: list[str] = []
        self.server = server
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)

    def _console(self, message) -> None:
        # Streamlit's client looks for its server beside the page first, then at the root.
        if message.type == "error" and "/_stcore/" not in (message.location or {}).get("url", ""):
            self.errors.append(f"{message.text} {message.location}")

    def _request(self, request) -> None:
        known = (self.server, self.server.replace("http", "ws"), "data:", "blob:")
        if not request.url.startswith(known):
            self.strangers.append(request.url)


@pytest.fixture
def visit(browser: Browser, server: str) -> Iterator:
    """Opens a page in a browser of its own; at the end none has complained or asked elsewhere."""
    opened: list[tuple[BrowserContext, Watch]] = []

    def open_at(path: str = "/", **options) -> Page:
        options.setdefault("viewport", {"width": 1440, "height": 1100})
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        opened.append((context, Watch(page, server)))
        page.goto(server + path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        return page

    yield open_at
    for context, watch in opened:
        context.close()
        assert watch.errors == []
        assert watch.strangers == []
