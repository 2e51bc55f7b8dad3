"""Requests that are turned away before the app knows of them, and servers that do not start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit import net_util
from streamlit.web.server import server_util

from pages.access import settings
from pages.hosting import doors, server

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in settings.NAMES:
        monkeypatch.delenv(name, raising=False)


def test_a_page_of_elsewhere_is_turned_away_and_nobody_else_is_asked(monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(net_util, "get_external_ip", net_util.get_external_ip)
    monkeypatch.setattr(net_util, "_make_blocking_http_get", lambda url, **_: asked.append(url))
    allowed = server_util.is_url_from_allowed_origins
    assert not allowed("https://elsewhere.example") and asked  # what Streamlit does by itself
    asked.clear()
    server.ask_nobody()
    assert not allowed("https://elsewhere.example") and not asked
    assert allowed("http://localhost:8501")


def scope(path="/", *, server="127.0.0.1", host="127.0.0.1:8501", **headers) -> dict:
    given = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {
        "type": "http",
        "path": path,
        "server": (server, 8501),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }


def test_this_machine_gets_in_without_a_word():
    assert doors.refusal(scope()) is None
    assert doors.refusal(scope(server="::1", host="[::1]:8501")) is None
    assert doors.refusal(scope(host="localhost:8501")) is None


@pytest.mark.parametrize(
    "asked",
    [
        scope(server="10.0.0.5", host="10.0.0.5:8501"),
        scope(server="10.0.0.5"),
        scope(host="lens.example.org"),
        scope(host="rebound.example:8501"),
        scope(host=""),
        scope(x_forwarded_for="203.0.113.9"),
        scope(x_forwarded_for="127.0.0.1"),
        scope(forwarded="for=1.2.3.4"),
        scope(via="1.1 proxy"),
    ],
)
def test_others_do_not_where_nothing_says_so(monkeypatch, asked):
    assert doors.refusal(asked) == doors.ONLY_HERE
    monkeypatch.setenv("GROK_LENS_ACCESS", "open")
    assert doors.refusal(asked) is None


def test_a_cookie_that_this_server_did_not_sign_fetches_no_file(monkeypatch):
    monkeypatch.setenv("GROK_LENS_ACCESS", "signed-in")
    asked = scope("/media/0123.csv", host="lens.example.org", cookie=f"{doors.COOKIE}=e30.x.y")
    assert doors.refusal(asked) == doors.SIGN_IN
    for path in ("/layers", "/static/media/font.woff2", "/_stcore/health"):
        assert doors.refusal(scope(path, host="lens.example.org")) is None
    monkeypatch.setattr(doors, "get_option", lambda name: "/deep/lens/")
    asked = scope("/deep/lens/media/0123.csv", host="lens.example.org")
    assert doors.refusal(asked) == doors.SIGN_IN


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "does not say whom to let in"),
        ({"GROK_LENS_ACCESS": "signed-in"}, "nothing says where to sign in"),
    ],
)
def test_a_server_that_would_let_in_anybody_does_not_start(settings, said, tmp_path):
    known = {k: v for k, v in os.environ.items() if not k.startswith("GROK_LENS_")}
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.address", "0.0.0.0"]
    ended = subprocess.run(
        [*command, "--server.port", "0"],
        cwd=ROOT,
        env={**known, **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode != 0
    assert said in ended.stdout + ended.stderr and "Traceback" not in ended.stdout + ended.stderr
