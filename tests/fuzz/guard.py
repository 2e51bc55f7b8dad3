"""Watches one call that reads something from outside: what it may do, and what it may take."""

from __future__ import annotations

import os
import signal
import site
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from grok.errors import GrokError
from lens.errors import LensError

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 10.0  # seconds of processor time
MOST_BYTES = 2**30
LONGEST_MESSAGE = 1500  # characters
EXECUTION = {
    "exec",
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
    "socket.bind",
    "ctypes.dlopen",
}
INSTALLED = (os.path.dirname(os.__file__), *site.getsitepackages(), str(ROOT))
_watching = False
_seen: list[str] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in EXECUTION and not _import(arguments):
        _seen.append(f"{event} {arguments!r:.200}")


def _import(arguments: tuple[object, ...]) -> bool:
    """True of a module of a library that is imported late."""
    file = getattr(arguments[0], "co_filename", "") if arguments else ""
    return file.startswith(INSTALLED) and getattr(arguments[0], "co_name", "") == "<module>"


sys.addaudithook(_hook)


class Hang(BaseException):
    """A call went on for too long; no reader's `except Exception` takes it for a damaged file."""


def _too_long(*_: object) -> None:
    raise Hang(f"still at work after {LONGEST} s of processor time")


@contextmanager
def watched() -> Iterator[None]:
    """A block that opens something hostile; errors in the project's own words are fine.

    Raises:
        AssertionError: it ran something, took too long or too much memory, or its error is none
            that is fit to be read. Any other exception passes as it is.
    """
    global _watching
    before = _peak(reset=True)
    _seen.clear()
    started = time.process_time()
    old = signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, LONGEST, 1.0)
    _watching = True
    try:
        yield
    except (LensError, GrokError) as error:
        _watching = False
        check_message(str(error))
    finally:
        _watching = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    assert not _seen, f"something was executed: {_seen}"
    assert time.process_time() - started < LONGEST
    assert _peak() - before < MOST_BYTES, "took more than a gigabyte"


def check_message(text: str) -> None:
    """A text for people: some sentences, no trace of the program's insides."""
    assert 20 <= len(text) <= LONGEST_MESSAGE, f"{len(text)} characters: {text:.400}"
    assert text.isprintable(), repr(text)
    assert text.endswith((".", ".)", "…")), text
    for inside in ("Traceback", " object at 0x", "<class '"):
        assert inside not in text, text


def _peak(*, reset: bool = False) -> int:
    """Most bytes of memory that this process has held, since the last reset where there is one."""
    if reset:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass  # then it is the most since the process began
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def budget() -> float:
    """Seconds of processor time for each door: `python -m tests.fuzz` says; 0 for one round."""
    return float(os.environ.get("FUZZ_SECONDS", "0"))


def rounds(one: Callable[[int], None]) -> None:
    """Runs `one` with numbers from 0, once or until the door's time is used."""
    started, number = time.process_time(), 0
    while number == 0 or time.process_time() - started < budget():
        one(number)
        number += 1
