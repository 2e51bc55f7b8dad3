"""A server on this machine that speaks the part of the Hub's protocol that downloads need.

It counts requests and bytes, and misbehaves on purpose when asked to.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "tests/tiny"


class HubServer:
    """Files of one repository, and how to misbehave.

    Attributes:
        files: content by name.
        sizes: what the listing says of a file, where that is not the truth.
        status: answers by the kind of request ("info", "file") or by a file's name.
        drop: bytes of a file's body after which the connection breaks, by name; once each.
        redirect: files are served from another path that the first answer leads to.
        whole: ranges are not honoured.
        token: what requests must bring.
        asked: requests by method and kind.
        sent: bytes of files.
        tokens: authorizations that came.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.sizes: dict[str, int] = {}
        self.status: dict[str, int] = {}
        self.drop: dict[str, int] = {}
        self.redirect = False
        self.whole = False
        self.token: str | None = None
        self.asked: Counter[str] = Counter()
        self.sent = 0
        self.tokens: set[str | None] = set()
        self.ranges: list[str] = []
        self.lock = threading.Lock()
        self.address = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"refused: {code}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, *, body: bool) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.tokens.add(self.headers.get("Authorization"))
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            hub.asked["refused"] += 1
            self._refuse(401, "RepoNotFound")
            return
        if path.startswith(f"/api/models/{REPOSITORY}"):
            self._info(path.removeprefix(f"/api/models/{REPOSITORY}"))
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            self._file(path.split("/", 5)[5], body=body, moved=False)
        elif path.startswith("/elsewhere/"):
            self._file(path.removeprefix("/elsewhere/"), body=body, moved=True)
        else:
            hub.asked["unknown"] += 1
            self._refuse(404, "RepoNotFound")

    def _info(self, rest: str) -> None:
        hub = self.hub
        hub.asked["info"] += 1
        revision = rest.removeprefix("/revision/") if rest else "main"
        if "info" in hub.status:
            self._refuse(hub.status["info"], "")
            return
        if revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
            return
        listed = [
            {"rfilename": name, "size": hub.sizes.get(name, len(content)), "blobId": "0" * 40}
            for name, content in hub.files.items()
        ]
        text = json.dumps(
            {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": listed}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _file(self, name: str, *, body: bool, moved: bool) -> None:
        hub = self.hub
        with hub.lock:
            hub.asked["GET file" if body else "HEAD file"] += 1
        status = hub.status.get(name, hub.status.get("file"))
        if status is not None:
            self._refuse(status, "EntryNotFound" if status == 404 else "")
            return
        if name not in hub.files:
            self._refuse(404, "EntryNotFound")
            return
        content = hub.files[name]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if hub.redirect and not moved:
            self.send_response(302)
            self.send_header("Location", f"{hub.address}/elsewhere/{name}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", etag)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, stop = 0, len(content)
        asked = None if hub.whole else self.headers.get("Range")
        if body and asked:
            with hub.lock:
                hub.ranges.append(asked)
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1 if last else len(content)
            if start >= len(content):
                self._refuse(416, "")
                return
        self.send_response(206 if asked and body else 200)
        self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        if asked and body:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        with hub.lock:
            cut = hub.drop.pop(name, None)
        part = content[start:stop] if cut is None else content[start : start + cut]
        self.wfile.write(part)
        with hub.lock:
            hub.sent += len(part)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[HubServer]:
    """A running server."""
    hub = HubServer(files)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def files_of(folder: Path) -> dict[str, bytes]:
    """A checkpoint folder as a repository."""
    names = [*folder.glob("ckpt-0/*"), folder / "config.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in names}
