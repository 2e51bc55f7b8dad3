"""What the web server is asked: an id for each request, figures, and a line of the log.

No address as it was asked reaches figures or log: it may hold the id of a session or of a tab,
or what somebody typed. A request has a kind instead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import streamlit as st
from prometheus_client import Counter, Gauge, Histogram
from streamlit.runtime.scriptrunner import get_script_run_ctx

from grok.serving import logs
from grok.serving.remote.transport import ASKED
from pages.hosting.first_answer import App, Message, Receive, Scope, Send

LOG = logging.getLogger("grok_lens.requests")
QUIET = ("static", "health", "probe")  # kinds that are counted but not written down
FOLDERS = {
    "media": "media",
    "static": "static",
    "component": "static",
    "stream": "stream",
    "upload_file": "upload",
    "health": "health",
    "host-config": "health",
    "auth": "sign_in",
    "oauth2callback": "sign_in",
}
PROBES = ("healthz", "readyz", "metrics")

REQUESTS = Counter(
    "grok_lens_http_requests", "Requests answered, by kind and status", ["kind", "status"]
)
SECONDS = Histogram(
    "grok_lens_http_request_seconds",
    "Seconds from a request to the end of its answer",
    ["kind"],
    buckets=(0.01, 0.05, 0.25, 1, 5, 30),
)
TABS = Gauge("grok_lens_websockets", "Websockets that are open, one a tab")


class Requests:
    """A server that knows its requests apart.

    Each gets the id that the proxy gave it, or one of its own; the answer says it in
    X-Request-Id, lines of the log say it, and the app finds it among the headers of its session.
    A tab that was closed is no error: what is still sent to it goes nowhere.

    Args:
        app: the server.
        pages: last parts of the pages' addresses.
    """

    def __init__(self, app: App, pages: Sequence[str]) -> None:
        self.app, self.pages = app, tuple(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the server does."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = logs.request_id(scope["headers"])
        others = [pair for pair in scope["headers"] if pair[0].lower() != logs.HEADER]
        scope = {**scope, "headers": [*others, (logs.HEADER, request.encode())]}
        mark = logs.REQUEST.set(request)
        try:
            if scope["type"] == "http":
                await self._answer(scope, receive, send, request)
            else:
                await self._keep_open(scope, receive, send)
        finally:
            logs.REQUEST.reset(mark)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request: str) -> None:
        kind, begun, status = self.kind(scope["path"]), time.perf_counter(), 500

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (logs.HEADER, request.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self.app(scope, receive, tell)
        finally:
            seconds = time.perf_counter() - begun
            REQUESTS.labels(kind, f"{status // 100}xx").inc()
            SECONDS.labels(kind).observe(seconds)
            _write(kind, seconds, method=scope["method"], status=status)

    async def _keep_open(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()

        async def tell(message: Message) -> None:
            try:
                await send(message)
            except OSError:
                # The tab is gone. Starlette would mark the socket as closed here, and raise at
                # the server's next look for a message, which says anyway that the tab is gone.
                LOG.debug("A tab was closed while something was sent to it.")

        with TABS.track_inprogress():
            try:
                await self.app(scope, receive, tell)
            finally:
                _write("stream", time.perf_counter() - begun)

    def kind(self, path: str) -> str:
        """What a path is about: a page's name, or one of a few words."""
        parts = path.strip("/").split("/")
        if parts[-1] in self.pages:
            return f"page:{parts[-1]}"
        if parts[-1] in PROBES:
            return "probe"
        for part in parts:
            if part in FOLDERS:
                return FOLDERS[part]
        return "page" if path.endswith("/") else "other"


def _write(kind: str, seconds: float, **more: object) -> None:
    if kind not in QUIET:
        fields = {"kind": kind, **more, "seconds": round(seconds, 4)}
        LOG.info("request", extra={"fields": fields})


def of_the_session() -> str | None:
    """Id of the request that opened the session which this thread draws for."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return None
    return st.context.headers.get(logs.HEADER.decode())


def write_json() -> None:
    """Has the log written as JSON, requests included, where the environment asks for it."""
    logs.know(of_the_session)
    if logs.wanted():
        logs.install()
        ASKED.setLevel(logging.INFO)
        LOG.setLevel(logging.INFO)
