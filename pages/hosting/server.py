"""The web server: the app, and what whoever runs it asks of it.

`/healthz` says that the process lives, `/readyz` that it takes visitors, `/metrics` gives figures
for Prometheus. They stand at the root, whatever the app's own path is. Figures are for the inside:
a request that came through a proxy is told that there is nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from streamlit import get_option, net_util, runtime
from streamlit.runtime import RuntimeState
from streamlit.runtime.pages_manager import PagesManager
from streamlit.runtime.stats import GaugeStat

from pages.access.settings import AccessError
from pages.hosting import doors, first_answer, gate, requests

OPEN = (RuntimeState.NO_SESSIONS_CONNECTED, RuntimeState.ONE_OR_MORE_SESSIONS_CONNECTED)

SESSIONS = Gauge("grok_lens_sessions", "Sessions whose tab is open")
ERRORS = Counter("grok_lens_page_errors", "Draws of a page that ended in an unexpected error")


def settings(pages: Sequence[str]) -> dict[str, Any]:
    """What Streamlit's `App` is made with, besides the file that it runs for each visitor.

    Args:
        pages: last parts of the pages' addresses.
    """
    try:
        gate.check_start(get_option("server.address"))
    except AccessError as error:
        raise SystemExit(f"Grok MoE Lens does not start. {error}") from None
    # Until a first run of app.py says which pages there are, Streamlit takes each file of a folder
    # `pages` for one, and a process's first visitor would see a bare file instead of the app.
    PagesManager.uses_pages_directory = False
    base = str(get_option("server.baseUrlPath") or "")
    ask_nobody()
    disable_created_metrics()
    SESSIONS.set_function(n_sessions)
    requests.write_json()
    return {
        "routes": [
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ],
        "middleware": [
            Middleware(requests.Requests, pages=pages),
            Middleware(doors.Doors),
            Middleware(FiguresInside),
            Middleware(first_answer.FirstAnswer, pages=pages, base=base),
        ],
        "lifespan": _begun,
        "on_script_error": _count,
    }


def ask_nobody() -> None:
    """Keep Streamlit from asking a server elsewhere what this machine's address is.

    It would for every websocket of a page of elsewhere, which any page can open, and none of
    Streamlit's settings says otherwise. Those that are allowed are named in
    server.corsAllowedOrigins.
    """
    net_util.get_external_ip = _unknown


def _unknown() -> str | None:
    return None


async def healthz(_request: Request) -> Response:
    """Says that the process answers."""
    return PlainTextResponse("ok")


async def readyz(_request: Request) -> Response:
    """Says whether visitors can be sent here: 200, or 503 while it starts or stops."""
    ready = runtime.exists() and runtime.get_instance().state in OPEN
    return JSONResponse({"ready": ready}, status_code=200 if ready else 503)


async def metrics(_request: Request) -> Response:
    """Figures of this process for Prometheus: counts and sizes, nothing that somebody typed."""
    text = await run_in_threadpool(generate_latest)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


class FiguresInside:
    """A server whose figures, its own and Streamlit's, are not to be had through a proxy."""

    def __init__(self, app: first_answer.App) -> None:
        self.app = app

    async def __call__(
        self,
        scope: first_answer.Scope,
        receive: first_answer.Receive,
        send: first_answer.Send,
    ) -> None:
        """Answers as the server does, or 404."""
        if scope["type"] == "http" and scope["path"].rstrip("/").rsplit("/", 1)[-1] == "metrics":
            if any(name in Request(scope).headers for name in doors.THROUGH_A_PROXY):
                await PlainTextResponse("Not Found", status_code=404)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def n_sessions() -> int:
    """Sessions whose tab is open."""
    if not runtime.exists():
        return 0
    found = runtime.get_instance().stats_mgr.get_stats(family_names=["active_sessions"])
    return sum(one.value for stats in found.values() for one in stats if isinstance(one, GaugeStat))


@asynccontextmanager
async def _begun(_app: object) -> AsyncIterator[None]:
    """By now uvicorn has set up loggers of its own, which write as all others do."""
    requests.write_json()
    yield


def _count(_error: Exception) -> None:
    ERRORS.inc()
