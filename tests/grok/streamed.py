"""Streamed models of small checkpoints, what they read, and what they leave behind."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from grok.engine.progress import PassProgress, watching
from grok.runner import loading as runner
from grok.trace import RoutingTrace

DATA = Path(__file__).resolve().parents[1] / "data"
PROMPT = [5, 17, 3, 211, 80, 400, 9, 44, 2, 301, 77]
PARTS = ("router_logits", "router_probs", "experts", "gates", "candidates", "candidate_probs")


def copied(name: str, folder: Path) -> Path:
    """A checkpoint of tests/data that may be damaged."""
    place = folder / name
    shutil.copytree(DATA / name, place)
    return place


def streamed(folder: Path, **options: Any) -> runner.Model:
    """The model in float32, its layers streamed."""
    return runner.load(folder, mode="streamed", dtype="float32", **options)


def same_bits(a: RoutingTrace, b: RoutingTrace) -> bool:
    """Whether two traces hold the same numbers to the last bit."""
    return all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in PARTS)


def differ(a: RoutingTrace, b: RoutingTrace) -> bool:
    """Whether two traces differ in the router's logits."""
    return not np.array_equal(a.router_logits, b.router_logits)


class After:
    """A watcher that does something once, when so many layers are done."""

    def __init__(self, layers: int, do: Any) -> None:
        self.layers, self.do = layers, do
        self.done = False

    def __call__(self, progress: PassProgress) -> None:
        if not self.done and progress.layer >= self.layers:
            self.done = True
            self.do()


def traced(model: runner.Model, watcher: Any = None, **options: Any) -> RoutingTrace:
    """The trace of PROMPT, watched."""
    with watching(watcher or (lambda _: None)):
        return model.trace_routing(options.pop("prompt", PROMPT), **options)


def layers_read(model: runner.Model) -> list[int]:
    """Layers that the last pass computed."""
    return [figures.layer for figures in model.last_pass or []]


@contextmanager
def no_thread_left() -> Iterator[None]:
    """The block leaves no thread behind, but those that all passes share for their products."""
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert [name for name in left if not name.startswith("products")] == []


@contextmanager
def no_file_left_open(folder: Path) -> Iterator[None]:
    """The block leaves no file of the folder open that was not open before."""
    before = _open_below(folder)
    yield
    assert _open_below(folder) <= before


def _open_below(folder: Path) -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if Path(target).is_relative_to(folder):
            found.add(target)
    return found
