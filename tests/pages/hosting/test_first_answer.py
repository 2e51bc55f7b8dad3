"""The line in the first answer that tells the client where its server is."""

from __future__ import annotations

import pytest

from pages.hosting.first_answer import FirstAnswer

PAGE = b"<!DOCTYPE html><html><head><title>x</title></head></html>"


async def server(scope, receive, send) -> None:
    """An answer in two parts, with headers that hold for it alone."""
    assert (b"if-none-match", b"1") not in scope["headers"] or scope["path"] == "/"
    headers = [(b"etag", b"1"), (b"content-length", str(len(PAGE)).encode()), (b"x", b"y")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE[:20], "more_body": True})
    await send({"type": "http.response.body", "body": PAGE[20:]})


def answer_to(path: str, method: str = "GET") -> tuple[bytes, dict[bytes, bytes]]:
    sent: list = []

    async def send(message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"if-none-match", b"1"), (b"accept", b"text/html")] if path != "/x" else [],
    }
    if method != "GET":
        scope["headers"] = []
    with pytest.raises(StopIteration):  # nothing waits here, so that it ends at once
        FirstAnswer(server, ["layers"])(scope, None, send).send(None)
    return b"".join(one.get("body", b"") for one in sent[1:]), dict(sent[0]["headers"])


@pytest.mark.parametrize("path", ["/layers", "/behind/a/proxy/layers"])
def test_the_answer_to_a_pages_address_says_where_the_server_is(path):
    body, headers = answer_to(path)
    start, end = body.split(b"<script>")[0], body.split(b"</script>")[1]
    assert start + end == PAGE and b'["layers"].includes' in body
    assert headers == {b"x": b"y", b"content-length": str(len(body)).encode()}


@pytest.mark.parametrize(("path", "method"), [("/", "GET"), ("/x", "GET"), ("/layers", "POST")])
def test_every_other_answer_stays_as_it_is(path, method):
    body, headers = answer_to(path, method)
    assert body == PAGE and headers[b"etag"] == b"1"
