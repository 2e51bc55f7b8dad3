"""The app as a team meets it: signed in, nginx with TLS before two web processes; one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from lens.routers.router_set import RouterSet, save_routers
from lens.storage.csv_text import read_csv
from tests.browser.app_server import ROOT, START_LIMIT
from tests.browser.conftest import PATIENCE
from tests.browser.oidc_provider import CLIENT, SECRET, providing
from tests.browser.steps import download, heading, settled, upload

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="there is no nginx here")
DEEP = "layers?metric=matched_cosine"
# What an address may hold must be in no log.
TYPED = "typed-by-somebody"


@dataclass
class Site:
    """What `deploy/one_machine.py` runs."""

    address: str
    folder: Path
    supervisor: int  # the process that starts the others again

    def pid(self, name: str) -> int:
        return json.loads((self.folder / "pids.json").read_text())[name]

    def get(self, path: str, cookie: str = "") -> tuple[int, Message, bytes]:
        """Status, headers and body of an answer."""
        trusting = ssl.create_default_context(cafile=self.folder / "tls" / "certificate.pem")
        asked = urllib.request.Request(self.address + path, headers={"Cookie": cookie})
        try:
            with urllib.request.urlopen(asked, context=trusting, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.headers, answer.read()

    def log(self, name: str) -> list[dict]:
        lines = (self.folder / "log" / f"{name}.txt").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def free_ports() -> tuple[int, int]:
    """One for nginx; the first of two in a row."""
    while True:
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            try:
                three.bind(("127.0.0.1", two.getsockname()[1] + 1))
            except (OSError, OverflowError):
                continue
            return one.getsockname()[1], two.getsockname()[1]


SECRETS = """
[auth]
redirect_uri = "{address}oauth2callback"
cookie_secret = "known-to-both-processes-{port}-and-long-enough"
client_id = "{client}"
client_secret = "{secret}"
server_metadata_url = "{provider}/.well-known/openid-configuration"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    port, first = free_ports()
    address = f"https://localhost:{port}/lens/"
    command = [sys.executable, "deploy/one_machine.py", "--folder", str(folder), "--no-model"]
    command += ["--port", str(port), "--first-port", str(first)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GROK_LENS_")}
    environment |= {"GROK_LENS_PRELOAD": "off", "GROK_LENS_ACCESS": "signed-in"}
    environment["STREAMLIT_SECRETS_FILES"] = str(folder / "secrets.toml")
    with providing() as provider:
        (folder / "secrets.toml").write_text(
            SECRETS.format(
                address=address,
                port=port,
                client=CLIENT,
                secret=SECRET,
                provider=provider.address,
            )
        )
        with running(command, environment) as supervisor:
            yield Site(address, folder, supervisor)
    for log in (folder / "log").iterdir():
        text = log.read_text(errors="replace")
        assert "Traceback" not in text and TYPED not in text, text


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[int]:
    """The id of the command's process, from its word that it is ready to its end."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    late = threading.Timer(START_LIMIT, process.terminate)
    late.start()
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        late.cancel()
        assert said.startswith("Ready: "), said
        yield process.pid
    finally:
        process.terminate()
        process.communicate(timeout=120)


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A browser that takes the certificate which signed itself."""
    context = browser.new_context(
        ignore_https_errors=True, viewport={"width": 1440, "height": 1100}
    )
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def stay_with(headers: Message) -> str | None:
    """The cookie by which the proxy finds the process again, where an answer sets it."""
    cookies = headers.get_all("Set-Cookie", [])
    return next((one for one in cookies if one.startswith("lens_web=")), None)


def process_of(page: Page) -> str:
    """The web process that the browser's cookie names."""
    return {one["name"]: one["value"] for one in page.context.cookies()}["lens_web"]


def test_only_the_app_is_reached_from_outside(site):
    for path in ("../metrics", "../healthz", "_stcore/metrics", "metrics", "_stcore/agent/mcp"):
        assert site.get(path)[0] == 404
    status, headers, body = site.get("_stcore/health")
    assert (status, body) == (200, b"ok") and headers["X-Content-Type-Options"] == "nosniff"
    said = stay_with(headers) or ""
    assert said.endswith("; Path=/lens; HttpOnly; Secure; SameSite=Lax")
    assert all("secure" in one.lower() for one in headers.get_all("Set-Cookie", []))


def test_a_visitor_stays_with_a_process_and_newcomers_go_to_both(site):
    came = [(stay_with(site.get("_stcore/health")[1]) or "").partition(";")[0] for _ in "12"]
    assert set(came) == {"lens_web=1", "lens_web=2"}
    for cookie in came:
        assert stay_with(site.get("_stcore/health", cookie)[1]) is None


def test_a_visit_goes_on_where_its_process_dies(site, page, tmp_path):
    mine = routers_of_three_layers(tmp_path)
    page.goto(f"{site.address}{DEEP}&{TYPED}=1")
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.locator("[name=who]").fill("ann@example.org")
    page.get_by_role("button", name="Go on").click()
    heading(page, "Layers")
    assert DEEP in page.url  # back at the place that was asked for
    settled(page)
    downloads = page.locator(".st-key-layer_similarity_heatmap_downloads")
    assert len(read_csv(download(page, downloads, "CSV").decode())) == 12 * 11 / 2 + 1
    upload(page, "mine.npz", mine)
    layers = page.get_by_test_id("stSidebar").get_by_text("3 layers × ")
    expect(layers).to_be_visible()
    settled(page)

    before = process_of(page)
    killed = site.pid(f"web-{before}")
    # A process that is back before the browser asks again would keep the browser.
    with visitors(site, before) as statuses, nothing_started_again(site):
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: process_of(page) != before, page)
    assert set(statuses) == {200}
    expect(layers).to_be_visible()  # what is drawn stays until something is pressed

    page.get_by_test_id("stSidebar").get_by_text("Raw", exact=True).click()
    # The file was in the process. The address says which it was, and it is opened again.
    expect(page.get_by_text("Open the file “mine.npz” first")).to_be_visible()
    expect(page.get_by_text("Signed in: ann@example.org")).to_be_attached()
    settled(page)
    again = page.locator(".st-key-upload_first").get_by_test_id("stFileUploaderDropzoneInput")
    again.set_input_files(
        {"name": "mine.npz", "mimeType": "application/octet-stream", "buffer": mine}
    )
    settled(page)
    expect(layers).to_be_visible()
    expect(page.get_by_text("Matched cosine").first).to_be_visible()  # chosen before
    assert len(read_csv(download(page, downloads, "CSV").decode())) == 3 + 1

    wait_for(lambda: site.pid(f"web-{before}") != killed, page)
    there = f"lens_web={before}"
    wait_for(lambda: stay_with(site.get("_stcore/health", there)[1]) is None, page)
    # Back again it takes newcomers; whoever was moved stays where the session is.
    assert process_of(page) != before
    assert len(read_csv(download(page, downloads, "CSV").decode())) == 3 + 1


def test_a_request_has_one_id_in_all_logs(site):
    _, headers, _ = site.get(f"layers?{TYPED}=1", "lens_web=1")

    def lines(log: str) -> list[dict]:
        return [one for one in site.log(log) if one.get("request") == headers["X-Request-Id"]]

    wait_for(lambda: lines("web-1") and lines("requests"))  # written once the answer is sent
    (inside,), (outside,) = lines("web-1"), lines("requests")
    assert inside["kind"] == "page:layers" and outside["path"] == "/lens/layers"


def routers_of_three_layers(folder: Path) -> bytes:
    weights = np.random.default_rng(0).standard_normal((3, 64, 8), dtype=np.float32)
    save_routers(RouterSet(weights, source="three layers", top_k=2), folder / "three.npz")
    return (folder / "three.npz").read_bytes()


@contextmanager
def nothing_started_again(site: Site) -> Iterator[None]:
    """The supervisor stands still for as long as the block."""
    os.kill(site.supervisor, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(site.supervisor, signal.SIGCONT)


class visitors:
    """Two who open the page again and again, at most 500 times, while the block runs."""

    def __init__(self, site: Site, process: str) -> None:
        self.site, self.cookie = site, f"lens_web={process}"
        self.statuses: list[int] = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(2)]

    def ask(self) -> None:
        for _ in range(500):
            self.statuses.append(self.site.get("layers", self.cookie)[0])
            if self.ended.wait(0.1):
                return

    def __enter__(self) -> list[int]:
        for thread in self.threads:
            thread.start()
        return self.statuses

    def __exit__(self, *_error: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def wait_for(holds, page: Page | None = None) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not holds():
        assert time.monotonic() < end
        if page is None:
            time.sleep(0.1)
        else:
            page.wait_for_timeout(100)  # the browser goes on meanwhile
