"""A Live routing page whose model is streamed, on a machine and a disk that a test rules."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok.planning import machine
from grok.planning.machine import Rates
from lens.traces import routing
from pages.live.running import stream_choice, stream_progress
from pages.shell import data_source

IDS = "5, 17, 3, 42, 99, 256, 12, 7"
TOKENS = [int(i) for i in IDS.split(",")]
SMALL = Path(__file__).resolve().parents[2] / "data" / "tiny12"
RATES = Rates(1e9, 5e9, 1e11, 20_000_000_000, "CPU, 2 cores", 20_000_000_000)
SLOW = replace(RATES, read_bytes_per_s=2e4)  # a pass takes minutes
PATIENCE = 300.0


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page runs a small model, streamed because the environment says so."""
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    monkeypatch.setenv(stream_choice.MODE_VARIABLE, "streamed")
    monkeypatch.delenv(stream_choice.MEMORY_VARIABLE, raising=False)
    measured(monkeypatch, RATES)
    yield
    stream_choice._rates.clear()


def measured(monkeypatch: pytest.MonkeyPatch, rates: Rates) -> None:
    """The machine is one with these rates."""
    stream_choice._rates.clear()
    monkeypatch.setattr(machine, "rates", lambda checkpoint, architecture: rates)


class Disk:
    """Reads of streamed weights that wait until they are let through, or fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.fails = threading.Event(), False
        self.left = 30  # reads that go through at once
        real = os.preadv

        def preadv(*arguments: Any) -> int:
            if threading.current_thread().name.startswith("read-ahead"):
                self.left -= 1
                if self.left < 0:
                    assert self.open.wait(PATIENCE)
                    if self.fails:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments)

        monkeypatch.setattr(os, "preadv", preadv)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.open.set()


def press(app, label: str):
    """The page after a press of the button whose label begins like this."""
    next(button for button in app.button if button.label.startswith(label)).click()
    return app.run(timeout=300)


def asked(app, prompt: str = IDS, second: str = ""):
    app.text_area(key="prompt").set_value(prompt)
    app.text_area(key="second_prompt").set_value(second)
    return press(app, stream_choice.COST_FIRST)


def running(app) -> tuple[Any, Any] | None:
    state = app.session_state
    key = stream_progress.RUNNING.key
    return state[key] if key in state else None


def ended(app):
    """The page once its run has ended."""
    found = running(app)
    if found is not None:  # else the page's last run has seen its end
        assert found[1].wait(PATIENCE).ended
        app.run(timeout=300)
    assert running(app) is None
    return app


def under_way(app) -> Any:
    """The run, once a layer of it is finished."""
    going, job = running(app)  # type: ignore[misc]
    until = time.monotonic() + PATIENCE
    while going.last is None or not going.last.bytes_read:
        assert not job.state.ended and time.monotonic() < until
        time.sleep(0.01)
    return going


def said(app) -> str:
    elements = [*app.markdown, *app.caption, *app.info, *app.error, *app.warning]
    return "\n".join(element.value for element in elements)


def as_resident(trace, expected) -> None:
    """The same experts as the resident model chose, but where rounding decides."""
    close = np.abs(routing.margin(expected)) < 0.05
    same = (np.sort(trace.experts, -1) == np.sort(expected.experts, -1)).all(-1)
    assert (same | close).all() and same.mean() > 0.9
    np.testing.assert_allclose(trace.router_logits[0], expected.router_logits[0], atol=0.05)
