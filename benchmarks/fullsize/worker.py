"""What happens in the process that the benchmark of the full size measures."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.live import prompt_of
from grok.checkpoints.grok1 import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from grok.engine.progress import PassProgress
    from grok.runner.loading import Model

TOKENS = 64  # of the prompt
NEW_TOKENS = 4


def forget(checkpoint: Checkpoint) -> None:
    """Asks the system to drop the checkpoint's files from its page cache."""
    for path in checkpoint.paths:
        with checkpoint.file(path).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Peaks:
    """Most bytes resident, in all and within each layer, as the kernel counts them."""

    def __init__(self) -> None:
        self.all = 0
        self.of_layer: dict[int, int] = {}
        self._layer = 0

    def __call__(self, progress: PassProgress) -> None:
        """Closes the stretch since the call before; it belongs to the layer then under way."""
        self._close(self._layer)
        self._layer = progress.layer

    def restart(self) -> None:
        """A new pass: forgets the layers, keeps the whole."""
        self._close(None)
        self.of_layer, self._layer = {}, 0

    def _close(self, layer: int | None) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        peak = int(status["VmHWM"].split()[0]) * 1024
        self.all = max(self.all, peak)
        if layer is not None:
            self.of_layer[layer] = max(self.of_layer.get(layer, 0), peak)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
        except OSError:
            pass  # then a layer's peak is that of all before it, too


def figures(model: Model, peaks: Peaks) -> list[dict[str, Any]]:
    """What the last pass did in each layer."""
    return [
        {
            "layer": f.layer,
            "bytes_read": f.bytes_read,
            "read_seconds": f.read_seconds,
            "compute_seconds": f.compute_seconds,
            "wait_seconds": f.wait_seconds,
            "seconds": f.seconds,
            "peak": peaks.of_layer.get(f.layer, 0),
        }
        for f in model.last_pass or []
    ]


def worker(folder: Path, tokenizer: Path | None, budget: int) -> dict[str, Any]:
    """Loads, traces twice, generates; everything that was measured, ready for JSON."""
    import grok
    from grok.engine.progress import watching

    peaks = Peaks()
    checkpoint = open_checkpoint(folder)
    forget(checkpoint)
    began = time.perf_counter()
    model = grok.load(folder, mode="streamed", memory_budget=budget, tokenizer=tokenizer)
    found: dict[str, Any] = {"load_seconds": time.perf_counter() - began}
    prompt = prompt_of(model, TOKENS)
    found["prompt"] = model.text(prompt[:12])
    found["has_tokenizer"] = model.tokenizer is not None
    for name in ("cold", "warm"):
        forget(checkpoint)
        peaks.restart()
        began, processor = time.perf_counter(), time.process_time()
        with watching(peaks):
            trace = model.trace_routing(prompt)
        found[name] = {
            "seconds": time.perf_counter() - began,
            "processor": time.process_time() - processor,
            "layers": figures(model, peaks),
            "experts": [int(np.unique(layer).size) for layer in trace.experts],
            "finite": bool(np.isfinite(trace.router_logits).all()),
        }
    forget(checkpoint)
    found["tokens"] = []
    peaks.restart()
    began = time.perf_counter()
    for step in model.stream(prompt, max_new_tokens=NEW_TOKENS + 1):
        if step.read.size == 1:
            found["tokens"].append(
                {
                    "seconds": time.perf_counter() - began,
                    "layers": figures(model, peaks),
                    "experts": [int(np.unique(layer).size) for layer in step.routing.experts],
                }
            )
        began = time.perf_counter()
    peaks.restart()
    return found | {"peak": peaks.all}


def long_worker(folder: Path, tokenizer: Path | None, budget: int, tokens: int) -> dict[str, Any]:
    """One pass over a long prompt; what `worker` says of one."""
    import grok
    from grok.engine.progress import watching

    peaks = Peaks()
    model = grok.load(folder, mode="streamed", memory_budget=budget, tokenizer=tokenizer)
    prompt = prompt_of(model, tokens)
    began, processor = time.perf_counter(), time.process_time()
    with watching(peaks):
        trace = model.trace_routing(prompt)
    found = {
        "seconds": time.perf_counter() - began,
        "processor": time.process_time() - processor,
        "layers": figures(model, peaks),
        "finite": bool(np.isfinite(trace.router_logits).all()),
    }
    peaks.restart()
    return found | {"peak": peaks.all}
