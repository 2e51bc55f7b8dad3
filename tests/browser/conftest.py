"""The real server and a real Chromium for the journeys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.app_server import launch_arguments, serving

PATIENCE = 180_000  # milliseconds that a busy machine may take

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict) -> dict:
    """The Chromium that CHROMIUM names or Debian ships, else Playwright's own."""
    return {**browser_type_launch_args, **launch_arguments()}


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[str]]:
    """`serving`, for a server with settings of its own."""
    return serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app as it is without settings."""
    with serving(tmp_path_factory.mktemp("server")) as address:
        yield address


class Watch:
    """What a page complains about, and whom it asks."""

    def __init__(self, page: Page, server: str) -> None:
        self.errors: list[str] = []
        self.strangers: list[str] = []
        self.server = server
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)
        page.on("response", self._response)

    def _console(self, message) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} {message.location}")

    def _response(self, response) -> None:
        if response.status >= 400:
            self.errors.append(f"{response.status} {response.url}")

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
