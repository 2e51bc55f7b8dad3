"""The client is told where its server is, when it opens a page by its address.

Streamlit's client takes the address of a page for the server's folder, asks there, is answered
404 twice, and asks at the root then. A line in the first answer says where to ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlencode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEAD = b"<head>"
# The folder of the page as the browser sees it, whatever a proxy has put before it.
SCRIPT = b"""<script>(() => {
  const folder = location.pathname.split("/").slice(0, -1);
  window.__streamlit = { ...window.__streamlit,
    BACKEND_BASE_URL: location.origin + folder.join("/") + "/" };
})();</script>"""
HTML = b"text/html"
NO_PAGE = "no_page"  # parameter with the page that was asked for and is not there
# An answer that is changed is neither compressed before, nor compared with one of before.
ASKED_OTHERWISE = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
SAID_OTHERWISE = (b"content-length", b"etag", b"last-modified", b"accept-ranges")


class FirstAnswer:
    """A server whose first answer to a page's address says where the server is.

    An address that names no page leads to the first one, which says so.

    Args:
        app: the server.
        pages: last parts of the pages' addresses.
        base: the folder that the server itself puts before all addresses.
    """

    def __init__(self, app: App, pages: Sequence[str], base: str = "") -> None:
        self.app, self.pages, self.base = app, tuple(pages), base.strip("/")

    def depth(self, scope: Scope) -> int:
        """Parts of an address below the server's folder; 0 where it is not a page's."""
        if scope["type"] != "http" or scope["method"] != "GET":
            return 0
        path = scope["path"].lstrip("/")
        last = path.rsplit("/", 1)[-1]
        if last in self.pages:
            return 1
        wanted = b" ".join(value for name, value in scope["headers"] if name.lower() == b"accept")
        if HTML not in wanted or "." in last:  # a file, or not a browser that opens an address
            return 0
        if (path + "/").startswith(self.base + "/"):
            path = path[len(self.base) :].lstrip("/")
        return len(path.split("/")) if last and path else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the server does, but for that line, or with the way to the first page."""
        depth = self.depth(scope)
        if not depth:
            await self.app(scope, receive, send)
            return
        last = scope["path"].rsplit("/", 1)[-1]
        asked = [pair for pair in scope["headers"] if pair[0].lower() not in ASKED_OTHERWISE]
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            if not _is_page(start):
                await send(message)
            if message["type"] == "http.response.start" or not _is_page(start):
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            if last in self.pages:
                answer = bytes(body).replace(HEAD, HEAD + SCRIPT, 1)
                said = [pair for pair in start["headers"] if pair[0].lower() not in SAID_OTHERWISE]
                length = (b"content-length", str(len(answer)).encode())
                await send({**start, "headers": [*said, length]})
                await send({"type": "http.response.body", "body": answer})
                return
            where = ("../" * (depth - 1) or "./") + "?" + urlencode({NO_PAGE: last})
            headers = [(b"location", where.encode())]
            await send({"type": "http.response.start", "status": 307, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        await self.app({**scope, "headers": asked}, receive, collect)


def _is_page(start: Message) -> bool:
    """True for an answer that a browser shows as a page, which is small."""
    kind = b"".join(value for name, value in start["headers"] if name.lower() == b"content-type")
    return start["status"] == 200 and kind.startswith(HTML)
