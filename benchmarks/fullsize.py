"""A prompt through layers of Grok-1's full widths, streamed from disk, and a few tokens after it.

    python -m benchmarks fullsize [--layers 2] [--folder DIR] [--keep] [--tokenizer FILE]
                                  [--memory-budget GB]

Makes a checkpoint of that many layers (4.9 GB each, and 3.2 GB of embedding; see
`benchmarks.full_checkpoint`) outside the repository, traces a prompt of 64 tokens with
`mode="streamed"` in a process of its own, and generates. It prints for each layer what was
read, how fast beside this disk's own rate, how long it computed, and how much of the
shorter of the two stood behind the longer. The disk's rate is that of sequential reads of
the same files past the page cache, before and after. The run fails when the process held
more than its budget at any moment. What is said of 64 layers is extrapolated.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.full_checkpoint import checkpoint_bytes, few_layers, make_checkpoint
from benchmarks.live import prompt_of
from benchmarks.rows import Row, exit_code, table
from grok.checkpoint import Checkpoint, expected_shape, open_checkpoint
from grok.config import GROK_1, GrokConfig
from grok.errors import GrokError
from grok.machine import read_rate
from grok.tensor_file import BFLOAT16

if TYPE_CHECKING:
    from grok.progress import PassProgress
    from grok.runner import Model

ROOT = Path(__file__).resolve().parent.parent
TOKENS = 64
NEW_TOKENS = 4
BUDGET = 8e9  # bytes
DISK_SECONDS = 4.0  # of each measurement of the disk
LIMIT_READ = 1.01  # bytes read / bytes that a token's chosen experts and the rest need


def default_folder(n_layers: int) -> Path:
    """Where the checkpoint goes unless told otherwise: the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "grok-moe-lens" / f"fullsize-{n_layers}"


def forget(checkpoint: Checkpoint) -> None:
    """Asks the system to drop the checkpoint's files from its page cache."""
    for path in checkpoint.paths:
        with checkpoint.file(path).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(checkpoint: Checkpoint) -> float:
    """Bytes a second of sequential reads of the checkpoint's files past the page cache.

    Raises:
        GrokError: it could not be measured, with the reason.
    """
    rate, how = read_rate(checkpoint, DISK_SECONDS)
    if rate is None:
        raise GrokError(how)
    return rate


# --- bytes that have to be read -----------------------------------------------


def tensor_bytes(config: GrokConfig, leaf: str) -> int:
    """Bytes of the values and scales of one parameter of a layer, of all experts."""
    shape = expected_shape(config, f"transformer/decoder_layer_0/{leaf}")
    count = int(np.prod(shape, dtype=np.int64))
    if leaf.startswith(("rms_norm", "router")):
        return count * 4
    groups = 8 if leaf in ("moe/linear_1/w", "multi_head_attention/linear/w") else 1
    return count + count // shape[-2] * groups * BFLOAT16.itemsize


def expert_bytes(config: GrokConfig) -> int:
    """Bytes of the three matrices of one expert."""
    names = ("moe/linear/w", "moe/linear_v/w", "moe/linear_1/w")
    return sum(tensor_bytes(config, name) for name in names) // config.n_experts


def other_bytes(config: GrokConfig) -> int:
    """Bytes of a layer without its experts."""
    attention = ("key", "linear", "query", "value")
    names = [f"multi_head_attention/{name}/w" for name in attention]
    names += ["rms_norm/scale", "rms_norm_1/scale", "rms_norm_2/scale", "rms_norm_3/scale"]
    return sum(tensor_bytes(config, name) for name in [*names, "router/w"])


def layer_bytes(config: GrokConfig) -> int:
    """Bytes of a whole layer."""
    return config.n_experts * expert_bytes(config) + other_bytes(config)


# --- in the process that is measured ------------------------------------------


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
    from grok.progress import watching

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
        began = time.perf_counter()
        with watching(peaks):
            trace = model.trace_routing(prompt)
        found[name] = {
            "seconds": time.perf_counter() - began,
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


# --- the table ----------------------------------------------------------------


def hidden(layers: Sequence[Mapping[str, Any]]) -> float:
    """Share of the shorter of reading and computing that ran beside the longer, 0 to 1."""
    read = sum(one["read_seconds"] for one in layers)
    compute = sum(one["compute_seconds"] for one in layers)
    together = sum(one["seconds"] for one in layers)
    shorter = min(read, compute)
    return min(1.0, max(0.0, (read + compute - together) / shorter)) if shorter else 1.0


def layer_table(layers: Sequence[Mapping[str, Any]], disk: float) -> str:
    """One line a layer."""
    lines = ["layer  read GB  GB/s  of the disk  reading s  computing s  waiting s  all s  peak GB"]
    for one in layers:
        rate = one["bytes_read"] / one["read_seconds"] if one["read_seconds"] else 0.0
        lines.append(
            f"{one['layer']:5}  {one['bytes_read'] / 1e9:7.2f}  {rate / 1e9:4.2f}  "
            f"{100 * rate / disk:9.0f} %  {one['read_seconds']:9.2f}  "
            f"{one['compute_seconds']:11.2f}  {one['wait_seconds']:9.2f}  "
            f"{one['seconds']:5.2f}  {one['peak'] / 1e9:7.2f}"
        )
    return "\n".join(lines)


def rows_of_passes(found: Mapping[str, Any], disk: float, config: GrokConfig) -> list[Row]:
    """Figures of the pass over the prompt, and what they would be with Grok-1's layers."""
    warm = found["warm"]
    layers = warm["layers"]
    read = sum(one["bytes_read"] for one in layers)
    seconds = sum(one["seconds"] for one in layers)
    ends = warm["seconds"] - seconds
    mean = seconds / len(layers)
    least = sum(chosen * expert_bytes(config) + other_bytes(config) for chosen in warm["experts"])
    whole = GROK_1.n_layers * mean + ends
    return [
        Row("load", found["load_seconds"], "s"),
        Row(f"first pass, {TOKENS} tokens, with compilation", found["cold"]["seconds"], "s"),
        Row(f"second pass, {TOKENS} tokens", warm["seconds"], "s", digits=2),
        Row("of that, the layers", seconds, "s", digits=2),
        Row("of that, embedding and unembedding", ends, "s", digits=2),
        Row("bytes read for the layers", read / 1e9, "GB", digits=2),
        Row("bytes read / bytes of the chosen experts and the rest", read / least, "", digits=3),
        Row("layers, bytes read by time", read / seconds / 1e9, "GB/s", digits=2),
        Row("of the disk's own rate", 100 * read / seconds / disk, "%", digits=0),
        Row("of the shorter of reading and computing, hidden", 100 * hidden(layers), "%", digits=0),
        Row(
            f"{GROK_1.n_layers} layers, {TOKENS} tokens",
            whole,
            "s",
            digits=0,
            note=f"extrapolated: {GROK_1.n_layers} times the mean layer here, and the ends",
        ),
    ]


def rows_of_tokens(found: Mapping[str, Any], config: GrokConfig) -> list[Row]:
    """Figures of the tokens that follow, each read alone."""
    tokens = found["tokens"]
    if not tokens:
        return [Row("tokens generated after the first", 0, "", digits=0)]
    later = tokens[1:] or tokens  # the first of them compiles
    read = [sum(one["bytes_read"] for one in token["layers"]) for token in tokens]
    least = sum(
        chosen * expert_bytes(config) + other_bytes(config)
        for token in tokens
        for chosen in token["experts"]
    )
    in_layers = [sum(one["seconds"] for one in token["layers"]) for token in later]
    seconds = [token["seconds"] for token in later]
    mean = float(np.mean(in_layers)) / config.n_layers
    ends = float(np.mean(seconds) - np.mean(in_layers))
    return [
        Row(
            "bytes read a token for the layers",
            float(np.mean(read)) / 1e9,
            "GB",
            digits=2,
            note=f"whole layers would be {config.n_layers * layer_bytes(config) / 1e9:.2f}",
        ),
        Row(
            "bytes read / bytes of the chosen experts and the rest",
            sum(read) / least,
            "",
            limit=LIMIT_READ,
            digits=3,
        ),
        Row("seconds a token", float(np.mean(seconds)), "s", digits=2),
        Row("of that, embedding and unembedding", ends, "s", digits=2),
        Row(
            f"{GROK_1.n_layers} layers, seconds a token",
            GROK_1.n_layers * mean + ends,
            "s",
            digits=0,
            note=f"extrapolated: {GROK_1.n_layers} times the mean layer here, and the ends",
        ),
    ]


def report(found: Mapping[str, Any], rates: Sequence[float], budget: float, n_layers: int) -> int:
    """Prints the tables; returns 1 when a limit is not held."""
    config = few_layers(n_layers)
    disk = float(np.mean(rates))
    tokens = "the prompt" if found["has_tokenizer"] else "token ids, for want of a tokenizer:"
    print(f"\n{tokens} {found['prompt']} …\n")
    print(layer_table(found["warm"]["layers"], disk))
    peak = Row("peak memory of the process", found["peak"] / 1e9, "GB", limit=budget / 1e9)
    rows = [
        Row("this disk, sequential, before", rates[0] / 1e9, "GB/s", digits=2),
        Row("this disk, sequential, after", rates[-1] / 1e9, "GB/s", digits=2),
        *rows_of_passes(found, disk, config),
        *rows_of_tokens(found, config),
        peak,
    ]
    print("\n" + table(rows))
    finite = all(found[name]["finite"] for name in ("cold", "warm"))
    if not finite:
        print("NOT HELD: router logits are not all finite.")
    return max(exit_code(rows), int(not finite))


def in_child(folder: Path, tokenizer: Path | None, budget: float) -> dict[str, Any]:
    """What `worker` found in a fresh process.

    Raises:
        GrokError: the process failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.fullsize", "--worker", "--folder", str(folder)]
    command += ["--memory-budget", str(budget / 1e9)]
    command += ["--tokenizer", str(tokenizer)] if tokenizer is not None else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise GrokError(f"the streamed run ended with {done.returncode}: {' '.join(said[-3:])}")
    return json.loads(done.stdout.splitlines()[-1])


def _size(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected gigabytes, more than 0")
    return value * 1e9


def _layers(text: str) -> int:
    value = int(text)
    if not 1 <= value <= GROK_1.n_layers:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 to {GROK_1.n_layers}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 1 when a limit is broken, 2 when it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks fullsize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layers", type=_layers, default=2, metavar="N", help="default 2")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="default: in the user's cache")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="Grok-1's tokenizer.model")
    parser.add_argument("--memory-budget", type=_size, default=BUDGET, metavar="GB")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        print(json.dumps(worker(args.folder, args.tokenizer, int(args.memory_budget))))
        return 0
    folder = args.folder or default_folder(args.layers)
    tokenizer = args.tokenizer.resolve() if args.tokenizer is not None else None
    config = few_layers(args.layers)
    print(
        f"A checkpoint of {args.layers} layers of Grok-1's widths: "
        f"{checkpoint_bytes(config) / 1e9:.1f} GB in {folder}",
        flush=True,
    )
    made = False
    try:
        if tokenizer is not None and not tokenizer.is_file():
            raise GrokError(f"{tokenizer}: there is no such file. Name Grok-1's tokenizer.model.")
        began = time.perf_counter()
        checkpoint, made = make_checkpoint(folder, config)
        how = f"written in {time.perf_counter() - began:.0f} s" if made else "found from before"
        print(how, flush=True)
        rates = [disk_rate(checkpoint)]
        found = in_child(folder.resolve(), tokenizer, args.memory_budget)
        rates.append(disk_rate(checkpoint))
        return report(found, rates, args.memory_budget, args.layers)
    except (GrokError, OSError) as error:
        print(f"benchmarks fullsize: {error}", file=sys.stderr)
        return 2
    finally:
        if made and not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
