"""The log as JSON: what a line says, and what it never says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from grok.serving import logs

SAID = """
import logging, sys
early = logging.getLogger("early")
early.addHandler(logging.StreamHandler())
from grok.serving import logs
logs.know(lambda: "request-of-a-thread")
logs.install()
late = logging.getLogger("late")
late.propagate = False
late.addHandler(logging.StreamHandler())
early.warning("of %s", "two\\nlines")
logs.REQUEST.set("request-of-a-task")
late.warning("there", extra={"fields": {"seconds": 0.5}})
try:
    raise ValueError("what somebody typed")
except ValueError as error:
    logging.getLogger("nobody.asked").error("It failed.", exc_info=error)
"""


def test_loggers_of_before_and_after_write_an_object_a_line_without_an_errors_text():
    done = subprocess.run([sys.executable, "-c", SAID], capture_output=True, text=True, check=True)
    # `early` has a handler of its own and hands on to the root's: its line stands there twice.
    early, again, late, failed = map(json.loads, done.stderr.splitlines())
    assert early == again and early["message"] == "of two\nlines"
    assert early["request"] == "request-of-a-thread" and early["level"] == "warning"
    assert late["request"] == "request-of-a-task" and late["seconds"] == 0.5
    assert failed["error"] == "ValueError" and failed["raised"][0].endswith("<module>")
    assert "typed" not in done.stderr


@pytest.mark.parametrize("given", [b"short", b"has a space in it", b"a" * 65, b"-abcdefghij", b""])
def test_an_id_of_another_form_is_replaced(given):
    made = logs.request_id([(b"X-Request-Id", given)])
    assert len(made) == 32 and made != given.decode()


def test_an_id_of_the_proxy_is_kept():
    headers = [(b"host", b"x"), (b"X-Request-ID", b"0f.a-b_c12345")]
    assert logs.request_id(headers) == "0f.a-b_c12345"


def test_the_id_of_a_part_begins_with_its_requests_and_is_one():
    headers = [(b"x-request-id", logs.part_of("a" * 64).encode())]
    assert logs.request_id(headers).startswith("a" * logs.LONGEST_WHOLE + ".")
    assert logs.part_of("from-the-proxy") != logs.part_of("from-the-proxy")


def test_another_kind_of_log_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("GROK_LENS_LOG", "xml")
    with pytest.raises(ValueError, match="GROK_LENS_LOG is 'xml'; it can be json or text"):
        logs.wanted()
