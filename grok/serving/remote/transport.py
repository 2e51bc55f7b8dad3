"""Requests to the model's server: sent, sent again, and its answers read event by event."""

from __future__ import annotations

import http.client
import json
import logging
import math
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from grok import errors
from grok.errors import BusyError, GrokError
from grok.serving import logs
from grok.serving.queue import OnWait, Waiting

if TYPE_CHECKING:
    from grok.experiments.forks import Progress

ASKED = logging.getLogger("grok_lens.asked")
TRIES = 2
MOST_BYTES = 2**31  # of an answer's line
RESTARTED = "The model was restarted while this ran. Send it again."
Events = Generator[Mapping[str, Any], None, None]
Headers = Mapping[str, str]


class LostError(Exception):
    """The server went away before it had answered."""


@dataclass(frozen=True)
class _Answer:
    """An answer that is still read."""

    connection: http.client.HTTPConnection
    answer: http.client.HTTPResponse

    def read(self, most: int) -> bytes:
        return self.answer.read(most)

    def readline(self, most: int) -> bytes:
        return self.answer.readline(most)

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


class Transport:
    """The way to one server.

    Args:
        url: of the server.
        token: that it was started with, if any.
        silence: seconds without any sign of it after which a call ends.

    Raises:
        GrokError: the address is none.
    """

    def __init__(self, url: str, token: str | None, silence: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise GrokError(
                f"The address of the model's server is {url!r:.80}; expected one such as "
                "http://127.0.0.1:8700."
            )
        self._parts, self._token, self._silence = parts, token, silence

    def quick(
        self, method: str, call: str, headers: Headers, body: Mapping[str, Any] | None = None
    ) -> Any:
        for left in reversed(range(TRIES)):
            try:
                with closing(self._asked(method, call, headers, body)) as answer:
                    return json.loads(answer.read(MOST_BYTES))
            except (OSError, http.client.HTTPException, ValueError) as error:
                if not left:
                    raise self._unreached(error) from error
            except LostError as error:
                raise self._unreached(error) from error
        raise AssertionError("the last try returns or raises")

    def events(
        self,
        call: str,
        headers: Headers,
        body: Mapping[str, Any],
        on_wait: OnWait | None,
        progress: Progress | None = None,
    ) -> Events:
        """The events of a run; what concerns its waiting and progress is told on the way.

        Raises:
            LostError: the server went away.
            GrokError: as the run does.
        """
        try:
            with closing(self._asked("POST", call, headers, body)) as answer:
                while line := answer.readline(MOST_BYTES):
                    event = json.loads(line)
                    kind = event["event"]
                    if kind == "error":
                        raise _error_of(event["error"])
                    if kind == "waiting" and on_wait is not None:
                        on_wait(Waiting(int(event["place"]), float(event["seconds"])))
                    elif kind == "alive" and on_wait is not None:
                        on_wait(Waiting(0, 0.0))  # which may end it
                    elif kind == "progress" and progress is not None:
                        progress(event["done"], event["total"])
                    elif kind == "layers":
                        _tell(event)
                    yield event
                    if kind == "result":
                        return
        except TimeoutError as error:
            text = f"The model's server said nothing for {self._silence:.0f} seconds. Try again."
            raise BusyError(text, retry_after=math.ceil(self._silence)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LostError from error
        raise LostError

    def _asked(
        self, method: str, call: str, headers: Headers, body: Mapping[str, Any] | None
    ) -> _Answer:
        """The answer to a request, where it is one; it closes the connection with itself."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(str(self._parts.hostname), self._parts.port, timeout=self._silence)
        given = {"Content-Type": "application/json", **headers}
        if self._token:
            given["Authorization"] = f"Bearer {self._token}"
        request = logs.current()
        if request is not None:
            given["X-Request-Id"] = logs.part_of(request)
        data = None if body is None else json.dumps(body).encode()
        began, status = time.monotonic(), 0
        try:
            path = f"{self._parts.path.rstrip('/')}/v1/{call}"
            connection.request(method, path, data, given)
            answer = connection.getresponse()
            status = answer.status
            if status == 200:
                return _Answer(connection, answer)
            said = answer.read(2**20)
        except BaseException:
            connection.close()
            raise
        finally:
            fields = {"call": call, "status": status, "asked": given.get("X-Request-Id")}
            seconds = round(time.monotonic() - began, 4)
            ASKED.info("asked", extra={"fields": fields | {"seconds": seconds}})
        connection.close()
        try:
            raise _error_of(json.loads(said)["error"])
        except (ValueError, KeyError, TypeError) as error:
            raise GrokError(
                f"The address of the model's server gave status {answer.status} without a reason; "
                "expected python -m grok.serve there. Look at the address."
            ) from error

    def _unreached(self, error: BaseException) -> GrokError:
        return BusyError(
            f"The model's server cannot be reached ({type(error).__name__}). It may be starting; "
            "try again in about 5 seconds, or ask whoever runs it.",
            retry_after=5,
        )


def _tell(event: Mapping[str, Any]) -> None:
    """Tell whoever watches passes in this thread how far one elsewhere is."""
    from grok.engine.progress import PassProgress, tell

    tell(PassProgress(**{name: value for name, value in event.items() if name != "event"}))


def _error_of(said: Mapping[str, Any]) -> GrokError:
    """The error that a server's answer says."""
    text = str(said["message"])
    kind = getattr(errors, str(said.get("type")), GrokError)
    if kind is BusyError:
        return BusyError(text, retry_after=said.get("retry_after"))
    known = isinstance(kind, type) and issubclass(kind, GrokError)
    return kind(text) if known else GrokError(text)
