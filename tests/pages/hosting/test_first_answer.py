"""The line in the first answer that tells the client where its server is."""

from __future__ import annotations

import pytest

from pages.hosting.first_answer import FirstAnswer

PAGE = b"<!DOCTYPE html><html><head><title>x</title></head></html>"


async def server(scope, receive, send) -> None:
    """An answer in two parts, with headers that hold for it alone."""
    headers = [(b"etag", b"1"), (b"content-length", str(len(PAGE)).encode()), (b"x", b"y")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE[:20], "more_body": True})
    await send({"type": "http.response.body", "body": PAGE[20:]})


def answer_to(
    path: str, method: str = "GET", base: str = "", accept: bytes = b"text/html"
) -> tuple[bytes, dict[bytes, bytes]]:
    sent: list = []

    async def send(message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"if-none-match", b"1"), (b"accept", accept)],
    }
    with pytest.raises(StopIteration):  # nothing waits here, so that it ends at once
        FirstAnswer(server, ["layers"], base)(scope, None, send).send(None)
    return b"".join(one.get("body", b"") for one in sent[1:]), dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("path", "depth"),
    [
        ("/layers", 1),
        ("/behind/a/proxy/layers", 1),
        ("/nonsense", 1),
        ("/no/page", 2),
        ("/base/nonsense", 1),
    ],
)
def test_the_answer_to_any_address_of_a_page_says_where_the_server_is(path, depth):
    body, headers = answer_to(path, base="/base")
    start, end = body.split(b"<script>")[0], body.split(b"</script>")[1]
    assert start + end == PAGE and f"slice(0, -{depth})".encode() in body
    assert path.encode() not in body  # what was asked for is nobody's script
    assert headers == {b"x": b"y", b"content-length": str(len(body)).encode()}


@pytest.mark.parametrize(
    ("path", "method", "accept"),
    [
        ("/", "GET", b"text/html"),
        ("/base", "GET", b"text/html"),
        ("/media/large.zip", "GET", b"text/html"),
        ("/nonsense", "GET", b"*/*"),
        ("/layers", "POST", b"text/html"),
    ],
)
def test_every_other_answer_stays_as_it_is(path, method, accept):
    body, headers = answer_to(path, method, "/base", accept)
    assert body == PAGE and headers[b"etag"] == b"1"
