"""The line in the first answer that tells the client where its server is."""

from __future__ import annotations

import pytest

from pages.hosting.first_answer import FirstAnswer

PAGE = b"<!DOCTYPE html><html><head><title>x</title></head></html>"


async def server(scope, receive, send) -> None:
    """An answer in two parts, with headers that hold for it alone."""
    kind = b"text/plain" if scope["path"] == "/healthz" else b"text/html; charset=utf-8"
    headers = [
        (b"etag", b"1"),
        (b"content-length", str(len(PAGE)).encode()),
        (b"content-type", kind),
    ]
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


@pytest.mark.parametrize("path", ["/layers", "/behind/a/proxy/layers", "/base/layers"])
def test_the_answer_to_any_address_of_a_page_says_where_the_server_is(path):
    body, headers = answer_to(path, base="/base")
    start, end = body.split(b"<script>")[0], body.split(b"</script>")[1]
    assert start + end == PAGE and b"BACKEND_BASE_URL" in body
    assert path.encode() not in body  # what was asked for is nobody's script
    length = str(len(body)).encode()
    assert headers == {b"content-type": b"text/html; charset=utf-8", b"content-length": length}


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/nonsense", b"./?no_page=nonsense"),
        ("/base/no/such/<page>", b"../../?no_page=%3Cpage%3E"),
    ],
)
def test_an_address_without_a_page_leads_to_the_first_one(path, where):
    body, headers = answer_to(path, base="/base")
    assert body == b"" and headers == {b"location": where}


@pytest.mark.parametrize(
    ("path", "method", "accept"),
    [
        ("/", "GET", b"text/html"),
        ("/base", "GET", b"text/html"),
        ("/layers/", "GET", b"text/html"),
        ("/healthz", "GET", b"text/html"),
        ("/media/large.zip", "GET", b"text/html"),
        ("/nonsense", "GET", b"*/*"),
        ("/layers", "POST", b"text/html"),
    ],
)
def test_every_other_answer_stays_as_it_is(path, method, accept):
    body, headers = answer_to(path, method, "/base", accept)
    assert body == PAGE and headers[b"etag"] == b"1"
