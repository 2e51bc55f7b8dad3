"""The log as JSON, an object a line, with the id of the request that a line belongs to.

Nothing that somebody typed stands there for an exception: its type and where it was raised are
written, its text is not.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import traceback
import uuid
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime

VARIABLE = "GROK_LENS_LOG"
HEADER = b"x-request-id"
LONGEST_WHOLE = 55  # characters of an id in that of a part
FRAMES = 12  # of a traceback, the innermost

# The request that is answered now, in the task that answers it and the jobs that it starts.
REQUEST: ContextVar[str | None] = ContextVar("request", default=None)
_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")


def wanted() -> bool:
    """Whether the environment asks for JSON.

    Raises:
        ValueError: it asks for something that there is not.
    """
    kind = os.environ.get(VARIABLE, "")
    if kind not in ("", "text", "json"):
        raise ValueError(f"{VARIABLE} is {kind!r}; it can be json or text.")
    return kind == "json"


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that a proxy has given a request, where it has an id's form; else a new one."""
    for name, value in headers:
        if name.lower() == HEADER and _ID.fullmatch(value):
            return value.decode()
    return uuid.uuid4().hex


def _no_request() -> str | None:
    return None


_of_thread: Callable[[], str | None] = _no_request


def know(of_thread: Callable[[], str | None]) -> None:
    """Have `current` ask this for the id of a thread's request, where `REQUEST` does not say."""
    global _of_thread
    _of_thread = of_thread


def current() -> str | None:
    """Id of the request that this thread works for; None where there is none."""
    return REQUEST.get() or _of_thread()


def part_of(request: str) -> str:
    """A new id, of something that is asked elsewhere for a request: it begins with its id."""
    return f"{request[:LONGEST_WHOLE]}.{secrets.token_hex(4)}"


class JsonLines(logging.Formatter):
    """A line of the log as one JSON object.

    What `extra={"fields": {...}}` of a call holds becomes fields of the object.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The object, on one line."""
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = current()
        if request:
            said["request"] = request
        said |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
            said["error"] = type(error).__name__
            said["raised"] = [f"{one.filename}:{one.lineno} {one.name}" for one in frames]
        return json.dumps(said, ensure_ascii=False, default=str)


def install() -> None:
    """Has every logger that writes to the terminal, now and later, write JSON."""
    form = JsonLines()

    class Logger(logging.Logger):
        """A logger whose handlers write JSON, whoever made them."""

        def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802, the library's name
            if _to_terminal(hdlr):
                hdlr.setFormatter(form)
            super().addHandler(hdlr)

    logging.setLoggerClass(Logger)
    root = logging.getLogger()
    if not any(_to_terminal(one) for one in root.handlers):
        root.addHandler(logging.StreamHandler())
    known = [one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    for logger in (root, *known):
        for handler in filter(_to_terminal, logger.handlers):
            handler.setFormatter(form)


def _to_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(
        handler, logging.FileHandler
    )
