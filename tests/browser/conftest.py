"""The real server and a real Chromium for the journeys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.browser.app_server import launch_arguments, serving

PATIENCE = 180_000  # milliseconds that a busy machine may take

WINDOW: ViewportSize = {"width": 1440, "height": 1100}
# What turns while one waits is drawn sixty times a second by the processor that is waited for, and
# what fades in has its colours only at the end of it.
STILL = """
  const still = new CSSStyleSheet();
  still.replaceSync(`*, ::before, ::after {animation-duration: 0s !important}
    [data-stale] {transition: none !important}`);
  document.adoptedStyleSheets = [still];
"""

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
        self.page = page
        self.heard = {
            "console": self._console,
            "pageerror": lambda error: self.errors.append(str(error)),
            "request": self._request,
            "response": self._response,
        }
        for event, hear in self.heard.items():
            page.on(event, hear)

    def end(self) -> None:
        for event, hear in self.heard.items():
            self.page.remove_listener(event, hear)

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


@pytest.fixture(scope="session")
def tabs() -> list[Page]:
    """Tabs that nobody looks at, each of a browser of its own.

    A tab that showed the app before has its scripts compiled: a page takes it a third of the
    work that it takes a new one.
    """
    return []


def forget(page: Page) -> None:
    """Make a tab and its browser as new: no cookie, nothing stored, nothing open."""
    for other in page.context.pages:
        if other is not page:
            other.close()
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.goto("about:blank")
    page.mouse.move(0, 0)
    page.context.clear_cookies()


@pytest.fixture
def visit(browser: Browser, server: str, tabs: list[Page]) -> Iterator:
    """Opens a page for somebody new; at the end none has complained or asked elsewhere.

    Whoever visits second in a test has another browser. What a tab can't become later, such as a
    phone, is asked for by `options` of a new one's context.
    """
    opened: list[tuple[Page, Watch, bool]] = []

    def open_at(
        path: str = "/",
        viewport: ViewportSize = WINDOW,
        color_scheme: Literal["light", "dark"] = "light",
        **options,
    ) -> Page:
        if tabs and not options:
            page = tabs.pop()
        else:
            page = browser.new_context(**options).new_page()
            page.context.set_default_timeout(PATIENCE)
            page.context.add_init_script(STILL)
        page.set_viewport_size(viewport)
        page.emulate_media(color_scheme=color_scheme)
        opened.append((page, Watch(page, server), not options))
        page.goto(server + path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        return page

    yield open_at
    for page, watch, again in opened:
        if again:
            forget(page)
            tabs.append(page)
        else:
            page.context.close()
        watch.end()
        assert watch.errors == []
        assert watch.strangers == []
