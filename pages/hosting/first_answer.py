"""The client is told where its server is, when it opens a page by its address.

Streamlit's client takes the address of a page for the server's folder, asks there, is answered
404 twice, and asks at the root then. A line in the first answer says where to ask.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEAD = b"<head>"
# The folder of the page as the browser sees it, whatever a proxy has put before it.
SCRIPT = """<script>(() => {
  const parts = location.pathname.split("/");
  if (PAGES.includes(parts.pop())) window.__streamlit = { ...window.__streamlit,
    BACKEND_BASE_URL: location.origin + parts.join("/") + "/" };
})();</script>"""
# An answer that is changed is neither compressed before, nor compared with one of before.
ASKED_OTHERWISE = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
SAID_OTHERWISE = (b"content-length", b"etag", b"last-modified", b"accept-ranges")


class FirstAnswer:
    """A server whose first answer to a page's address says where the server is.

    Args:
        app: the server.
        pages: last parts of the pages' addresses.
    """

    def __init__(self, app: App, pages: Sequence[str]) -> None:
        self.app, self.pages = app, tuple(pages)
        self.script = SCRIPT.replace("PAGES", json.dumps(list(pages))).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the server does, but for that line."""
        asks = scope["type"] == "http" and scope["method"] == "GET"
        if not asks or scope["path"].rsplit("/", 1)[-1] not in self.pages:
            await self.app(scope, receive, send)
            return
        asked = [pair for pair in scope["headers"] if pair[0].lower() not in ASKED_OTHERWISE]
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            answer = bytes(body).replace(HEAD, HEAD + self.script, 1)
            said = [pair for pair in start["headers"] if pair[0].lower() not in SAID_OTHERWISE]
            length = (b"content-length", str(len(answer)).encode())
            await send({**start, "headers": [*said, length]})
            await send({"type": "http.response.body", "body": answer})

        await self.app({**scope, "headers": asked}, receive, collect)
