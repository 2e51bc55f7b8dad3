"""A server on this machine that speaks the part of the Hub's protocol that downloads need.

It counts requests and bytes, serves files far larger than memory from the few parts that are
not zeros, and misbehaves on purpose when asked to.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "tests/tiny"
PIECE = 2**16  # bytes written at once


@dataclass(frozen=True)
class Sparse:
    """Content of a file that is zeros but for some parts, held as those parts alone.

    Attributes:
        size: bytes of the file.
        parts: what stands at an offset; they don't overlap.
    """

    size: int
    parts: Mapping[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(self.size)
        found = bytearray(max(0, stop - start))
        for offset, part in self.parts.items():
            low, high = max(start, offset), min(stop, offset + len(part))
            if low < high:
                found[low - start : high - start] = part[low - offset : high - offset]
        return bytes(found)


Content = bytes | Sparse


class HubServer:
    """Files of one repository, and how to misbehave.

    Attributes:
        files: content by name.
        sizes: what the listing says of a file, where that is not the truth.
        status: answers by the kind of request ("info", "file") or by a file's name.
        listing: what is sent in place of the listing.
        drop: bytes of a file's body after which the connection breaks, by name; once each, and
            once for each number of a list.
        silent: names of files that are asked for and never sent, or "info".
        first: files whose bodies are sent; those of further ones wait. None: of all.
        slow: seconds before each `PIECE` of a file's body.
        redirect: files are served from another path that the first answer leads to; an address
            for one of another server.
        whole: ranges are not honoured.
        shifted: bytes that the answer to a range is shifted by.
        token: what requests must bring.
        asked: requests by method and kind.
        sent: bytes of files.
        tokens: authorizations that came.
        ranges: ranges that were asked for.
        most_at_once: requests for files that were answered at a time.
    """

    def __init__(self, files: dict[str, Content]) -> None:
        self.files = files
        self.sizes: dict[str, int] = {}
        self.status: dict[str, int] = {}
        self.listing: bytes | None = None
        self.drop: dict[str, int | list[int]] = {}
        self.silent: set[str] = set()
        self.first: int | None = None
        self.begun = 0
        self.slow = 0.0
        self.redirect: bool | str = False
        self.whole = False
        self.shifted = 0
        self.token: str | None = None
        self.asked: Counter[str] = Counter()
        self.sent = 0
        self.tokens: set[str | None] = set()
        self.ranges: list[str] = []
        self.now = self.most_at_once = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.address = ""

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        return sum(map(len, self.files.values()))

    def next_drop(self, name: str) -> int | None:
        """Where the connection that sends this file now is to break."""
        with self.lock:
            planned = self.drop.get(name)
            if isinstance(planned, list):
                return planned.pop(0) if planned else None
            return self.drop.pop(name, None)  # type: ignore[return-value]


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

    def _kept_waiting(self, name: str) -> bool:
        """Whether this request gets no answer; returns when the server ends."""
        if name not in self.hub.silent:
            return False
        self.hub.ended.wait()
        self.close_connection = True
        return True

    def _info(self, rest: str) -> None:
        hub = self.hub
        hub.asked["info"] += 1
        if self._kept_waiting("info"):
            return
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
        text = hub.listing
        if text is None:
            found = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": listed}
            text = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _file(self, name: str, *, body: bool, moved: bool) -> None:
        hub = self.hub
        with hub.lock:
            hub.asked["GET file" if body else "HEAD file"] += 1
        if body and self._kept_waiting(name):
            return
        status = hub.status.get(name, hub.status.get("file"))
        if status is not None:
            self._refuse(status, "EntryNotFound" if status == 404 else "")
            return
        if name not in hub.files:
            self._refuse(404, "EntryNotFound")
            return
        content = hub.files[name]
        told = content if isinstance(content, bytes) else f"{name} {len(content)}".encode()
        etag = f'"{hashlib.sha256(told).hexdigest()}"'
        if hub.redirect and not moved:
            there = hub.redirect if isinstance(hub.redirect, str) else hub.address
            self.send_response(302)
            self.send_header("Location", f"{there}/elsewhere/{name}")
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
            start, stop = start + hub.shifted, stop + hub.shifted
        self.send_response(206 if asked and body else 200)
        self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        if asked and body:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        if body:
            self._body(name, content, start, stop)

    def _body(self, name: str, content: Content, start: int, stop: int) -> None:
        hub = self.hub
        with hub.lock:
            hub.now += 1
            hub.begun += 1
            waits = hub.first is not None and hub.begun > hub.first
            hub.most_at_once = max(hub.most_at_once, hub.now)
        try:
            if waits:
                hub.ended.wait()
            self._send(name, content, start, stop)
        finally:
            with hub.lock:
                hub.now -= 1

    def _send(self, name: str, content: Content, start: int, stop: int) -> None:
        hub = self.hub
        cut = hub.next_drop(name)
        end = stop if cut is None else min(stop, start + cut)
        for at in range(start, end, PIECE):
            if hub.slow and hub.ended.wait(hub.slow):
                break
            part = content[at : min(at + PIECE, end)]
            with hub.lock:  # before whom it reaches can look
                hub.sent += len(part)
            self.wfile.write(part)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(files: dict[str, Content]) -> Iterator[HubServer]:
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
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def files_of(folder: Path) -> dict[str, Content]:
    """A checkpoint folder as a repository."""
    names = [*folder.glob("ckpt-0/*"), folder / "config.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in names}
