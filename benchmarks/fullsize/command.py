"""A prompt through layers of Grok-1's full widths, streamed from disk, and a few tokens after it.

    python -m benchmarks fullsize [--layers 2] [--folder DIR] [--keep] [--tokenizer FILE]
                                  [--memory-budget GB] [--longest TOKENS]

Makes a checkpoint of that many layers (4.9 GB each, and 3.2 GB of embedding; see
`benchmarks.fullsize.checkpoint`) outside the repository and traces a prompt of 64 tokens with
`mode="streamed"` in a process of its own, then generates a few tokens. A second process reads a
prompt of 2,048 tokens, for its memory.

For each layer stands there what was read, how fast beside this disk's own rate, how long it was
computed, and in all how much of the shorter of the two ran beside the longer. The disk's rate is
that of large reads of the same files past the page cache, the higher of before and after. The run
fails when a process held more than its budget at any moment. What is said of 64 layers is
extrapolated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fullsize.checkpoint import checkpoint_bytes, few_layers, make_checkpoint
from benchmarks.fullsize.worker import TOKENS, long_worker, worker
from benchmarks.rows import Row, exit_code, table
from grok.architectures.grok1 import Grok1
from grok.checkpoints.grok1 import Checkpoint, expected_shape
from grok.checkpoints.tensor_file import BFLOAT16
from grok.config import GROK_1, GrokConfig
from grok.errors import GrokError
from grok.streaming.host_memory import sizes

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 2048  # tokens of the prompt that takes the most memory
BUDGET = 8e9  # bytes
DISK_SECONDS = 4.0  # of each measurement of the disk
DISK_PIECE = 64 * 2**20  # bytes asked for at once
LIMIT_READ = 1.01  # bytes read / bytes that a token's chosen experts and the rest need


def default_folder(n_layers: int) -> Path:
    """Where the checkpoint goes unless told otherwise: the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "grok-moe-lens" / f"fullsize-{n_layers}"


def disk_rate(checkpoint: Checkpoint, seconds: float = DISK_SECONDS) -> float:
    """Bytes a second of reads of the layers' files, one after another, in one thread.

    Past the page cache where the file system allows it; beginning anywhere, as what was read a
    moment ago may be faster.
    """
    files = [checkpoint.file(path) for path in checkpoint.paths if "/moe/" in path]
    read, began = 0, time.perf_counter()
    with mmap.mmap(-1, DISK_PIECE) as buffer:
        for file in itertools.islice(itertools.cycle(files), random.randrange(len(files)), None):
            descriptor = _opened_direct(file)
            try:
                at = 0
                while n := os.preadv(descriptor, [buffer], at):
                    at, read = at + n, read + n
                    if time.perf_counter() - began >= seconds or n < DISK_PIECE:
                        break
            finally:
                os.close(descriptor)
            if time.perf_counter() - began >= seconds:
                return read / (time.perf_counter() - began)
    raise AssertionError("the files come again without end")


def _opened_direct(file: Path) -> int:
    try:
        return os.open(file, os.O_RDONLY | os.O_DIRECT)
    except OSError:  # a file system without it
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return descriptor


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
        Row(
            f"second pass, {TOKENS} tokens",
            warm["seconds"],
            "s",
            digits=2,
            note=f"{warm['processor']:.1f} s of processor time",
        ),
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


def rows_of_long(found: Mapping[str, Any], tokens: int, budget: float) -> list[Row]:
    """Time and memory of the pass over a long prompt."""
    seconds = sum(one["seconds"] for one in found["layers"])
    return [
        Row(
            f"pass of {tokens:,} tokens, with compilation",
            found["seconds"],
            "s",
            note=f"{found['processor']:.0f} s of processor time",
        ),
        Row("of that, the layers", seconds, "s"),
        Row(
            f"peak memory of the process, {tokens:,} tokens",
            found["peak"] / 1e9,
            "GB",
            limit=budget / 1e9,
            digits=2,
        ),
    ]


def report(
    found: Mapping[str, Any],
    rates: Sequence[float],
    budget: float,
    n_layers: int,
    longest: Mapping[str, Any] | None = None,
    longest_tokens: int = LONGEST,
) -> int:
    """Prints the tables; returns 1 when a limit is not held."""
    config = few_layers(n_layers)
    disk = max(rates)  # what else runs can only lower it
    tokens = "the prompt" if found["has_tokenizer"] else "token ids, for want of a tokenizer:"
    print(f"\n{tokens} {found['prompt']} …\n")
    print(layer_table(found["warm"]["layers"], disk))
    peak = Row(
        f"peak memory of the process, {TOKENS} tokens",
        found["peak"] / 1e9,
        "GB",
        limit=budget / 1e9,
        digits=2,
    )
    rows = [
        Row("this disk, sequential, before", rates[0] / 1e9, "GB/s", digits=2),
        Row("this disk, sequential, after", rates[-1] / 1e9, "GB/s", digits=2),
        *rows_of_passes(found, disk, config),
        *rows_of_tokens(found, config),
        peak,
        *(rows_of_long(longest, longest_tokens, budget) if longest is not None else []),
    ]
    print("\n" + table(rows))
    passes = [found["cold"], found["warm"], *([longest] if longest is not None else [])]
    finite = all(one["finite"] for one in passes)
    if not finite:
        print("NOT HELD: router logits are not all finite.")
    return max(exit_code(rows), int(not finite))


def in_child(
    folder: Path, tokenizer: Path | None, budget: float, longest: int = 0
) -> dict[str, Any]:
    """What `worker`, or `long_worker` where `longest` is given, found in a fresh process.

    Raises:
        GrokError: the process failed; with the end of what it said.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.fullsize.command",
        "--worker",
        "--folder",
        str(folder),
    ]
    command += ["--memory-budget", str(budget / 1e9), "--longest", str(longest)]
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


def _tokens(text: str) -> int:
    value = int(text)
    if not 0 <= value <= GROK_1.context_length:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 to {GROK_1.context_length}")
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
    parser.add_argument(
        "--longest",
        type=_tokens,
        default=LONGEST,
        metavar="TOKENS",
        help=f"of the prompt whose memory is measured (default {LONGEST}); 0: no such pass",
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        given = (args.folder, args.tokenizer, int(args.memory_budget))
        print(json.dumps(long_worker(*given, args.longest) if args.longest else worker(*given)))
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
        sizes(Grok1(config), int(args.memory_budget), max(TOKENS, args.longest))
        began = time.perf_counter()
        checkpoint, made = make_checkpoint(folder, config)
        how = f"written in {time.perf_counter() - began:.0f} s" if made else "found from before"
        print(how, flush=True)
        rates = [disk_rate(checkpoint)]
        found = in_child(folder.resolve(), tokenizer, args.memory_budget)
        rates.append(disk_rate(checkpoint))
        longest = None
        if args.longest:
            longest = in_child(folder.resolve(), tokenizer, args.memory_budget, args.longest)
        return report(found, rates, args.memory_budget, args.layers, longest, args.longest)
    except (GrokError, OSError) as error:
        print(f"benchmarks fullsize: {error}", file=sys.stderr)
        return 2
    finally:
        if made and not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
