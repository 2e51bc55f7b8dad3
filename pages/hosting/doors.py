"""Requests that are turned away before the app knows of them.

Where nothing says whom to let in, only this machine gets in: not who comes to another of its
addresses, not who comes through a proxy, and not a page of elsewhere that calls this machine by a
name of its own. Where one has to sign in, files that were made for download are for those who
have.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from streamlit import get_option
from streamlit.auth_util import get_cookie_with_chunks
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value

from pages.access import persons, settings
from pages.hosting.first_answer import App, Receive, Scope, Send

# A proxy adds one of these; whoever asks the process itself has no reason to.
THROUGH_A_PROXY = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "via")
FOR_THE_SIGNED_IN = ("media/", "_stcore/upload_file/")  # after the app's own path
COOKIE = "_streamlit_user"
ONLY_HERE = (
    "This app was started for its own machine alone. Whoever runs it lets others in with "
    f"{settings.ACCESS}: see docs/hosting.md.\n"
)
SIGN_IN = "Sign in first.\n"


class Doors:
    """A server that turns away whom it is not for.

    Args:
        app: the server.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the server does, or 403."""
        why = refusal(scope) if scope["type"] in ("http", "websocket") else None
        if why is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse(why, status_code=403)(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})


def refusal(scope: Scope) -> str | None:
    """Why a request is turned away, or None."""
    access = settings.current()
    request = HTTPConnection(scope)
    if not access.is_server:
        return None if is_from_here(request) else ONLY_HERE
    base = str(get_option("server.baseUrlPath") or "").strip("/")
    path = scope["path"].strip("/").removeprefix(base).lstrip("/")
    if access.asks and path.startswith(FOR_THE_SIGNED_IN):
        person = persons.of_claims(claims(request))
        if persons.standing(person, access) != "inside":
            return SIGN_IN
    return None


def is_from_here(request: HTTPConnection) -> bool:
    """True for what this machine itself asks, without a proxy, of a loopback address by its name.

    A proxy that hides itself cannot be told from a visitor of this machine.
    """
    host, _ = request.scope.get("server") or (None, None)
    socket = host is None or host.startswith("/")
    if any(name in request.headers for name in THROUGH_A_PROXY):
        return False
    try:
        asked = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return False
    return settings.is_loopback(asked) and (socket or settings.is_loopback(host))


def claims(request: HTTPConnection) -> dict[str, object]:
    """What the signed cookie says of the person; nothing where it is not signed by this server."""

    def one(name: str) -> bytes | None:
        value = request.cookies.get(name)
        if value is None:
            return None
        return decode_signed_value(get_cookie_secret(), name, value.encode("latin-1"))

    try:
        found = json.loads(get_cookie_with_chunks(one, COOKIE) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
