"""Requests get ids, kinds and figures; a closed tab is no error; figures stay inside."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from grok.serving import logs
from pages.hosting.requests import Requests
from pages.hosting.server import FiguresInside

PAGES = ["overview", "layers"]


def run(answer) -> None:
    """Waits for it in a thread of its own: a browser's test may have left a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, answer).result()


def ask(app, path: str, headers: tuple = (), query: bytes = b"") -> tuple[int, dict, bytes]:
    """Status, headers and body of an answer."""
    sent: list = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": list(headers)}
    run(app({**scope, "query_string": query}, receive, send))
    body = b"".join(one.get("body", b"") for one in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


async def echo(request) -> PlainTextResponse:
    """Says the id twice, as the app and as the log see it."""
    return PlainTextResponse(f"{request.headers['x-request-id']} {logs.REQUEST.get()}")


ECHO = Requests(Starlette(routes=[Route("/{path:path}", echo)]), PAGES)


def test_the_proxys_id_is_seen_by_the_app_the_log_and_the_asker():
    _, headers, body = ask(ECHO, "/layers", [(b"X-Request-Id", b"from-the-proxy")])
    assert headers[b"x-request-id"] == b"from-the-proxy"
    assert body == b"from-the-proxy from-the-proxy"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "page"),
        ("/lens/", "page"),
        ("/lens/layers", "page:layers"),
        ("/lens/_stcore/stream", "stream"),
        ("/_stcore/upload_file/7c1e-session/file", "upload"),
        ("/lens/media/0a1b.csv", "media"),
        ("/lens/static/js/a.js", "static"),
        ("/lens/oauth2callback", "sign_in"),
        ("/healthz", "probe"),
        ("/what/somebody/typed", "other"),
    ],
)
def test_a_path_has_one_of_a_few_kinds(path, kind):
    assert ECHO.kind(path) == kind


def test_a_request_is_counted_and_written_down_without_its_address(caplog):
    caplog.set_level(logging.INFO, logger="grok_lens.requests")
    counted = ("grok_lens_http_requests_total", {"kind": "other", "status": "2xx"})
    before = REGISTRY.get_sample_value(*counted) or 0
    ask(ECHO, "/typed", query=b"prompt=secret")
    assert REGISTRY.get_sample_value(*counted) == before + 1
    (line,) = caplog.records
    assert line.fields["kind"] == "other" and line.fields["status"] == 200
    assert "typed" not in str(line.__dict__) and "secret" not in str(line.__dict__)


@pytest.mark.parametrize("guarded", [True, False])
def test_a_tab_that_closes_while_something_is_sent_ends_its_socket_quietly(guarded):
    """Without the guard a newer Starlette raises WebSocketDisconnected, which nobody expects."""
    ended: list[Exception] = []

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        for step in (websocket.send_bytes(b"1"), websocket.receive_bytes()):
            try:
                await step
            except Exception as error:
                ended.append(error)

    messages = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}])

    async def receive():
        return next(messages)

    async def send(message) -> None:
        if message["type"] == "websocket.send":
            raise OSError("The tab is gone.")

    app = Starlette(routes=[WebSocketRoute("/_stcore/stream", socket)])
    scope = {"type": "websocket", "path": "/_stcore/stream", "headers": [], "subprotocols": []}
    open_before = REGISTRY.get_sample_value("grok_lens_websockets")
    server = Requests(app, PAGES) if guarded else app
    run(server({**scope, "query_string": b""}, receive, send))
    kinds = [type(error) for error in ended]
    if guarded:
        assert kinds == [WebSocketDisconnect]
        assert REGISTRY.get_sample_value("grok_lens_websockets") == open_before
    else:
        assert kinds != [WebSocketDisconnect]


@pytest.mark.parametrize("path", ["/metrics", "/lens/_stcore/metrics", "/_stcore/metrics/"])
@pytest.mark.parametrize("header", [b"x-forwarded-for", b"forwarded", b"via"])
def test_figures_are_not_to_be_had_through_a_proxy(path, header):
    app = FiguresInside(Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("1"))]))
    assert ask(app, path)[0] == 200
    assert ask(app, path, [(header, b"10.0.0.1")])[0] == 404
    assert ask(app, "/layers", [(header, b"10.0.0.1")])[0] == 200
