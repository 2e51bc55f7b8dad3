"""What extraction reads, holds and takes on a checkpoint of Grok-1's full size.

    python -m benchmarks extraction

Makes a folder of all 770 files, of the released sizes: those that hold routers
and norms are real (random values), the others sparse. Then runs the command
`python -m lens.extract` on it and compares it with the same command stopped
after its imports (`--help`) and with a plain read of the 128 files. All runs are
fresh processes, alternating, in one go; files are in the page cache for all of
them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fullsize.sparse_layout import write_sparse_layout
from benchmarks.rows import Row, exit_code, table
from grok.checkpoints.grok1 import moe_norm_path, open_checkpoint, router_path
from lens.extract.grok1 import extract_routers

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 7
LIMIT_READ = 1.02
LIMIT_MEMORY = 150.0  # MB

# Runs the module as `python -m` does, then says what the kernel counted.
_CHILD = """
import runpy, sys
try:
    runpy.run_module("lens.extract", run_name="__main__", alter_sys=True)
except SystemExit as stopped:
    code = stopped.code
counts = dict(line.split(":") for line in open("/proc/self/io"))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("COUNTED", code or 0, int(counts["rchar"]), int(status["VmHWM"].split()[0]) * 1024)
"""


def make_checkpoint(folder: Path) -> list[Path]:
    """The 770 files of a full-size checkpoint; returns the 128 that extraction needs."""
    write_sparse_layout(folder)
    checkpoint = open_checkpoint(folder)
    paths = [path(layer) for layer in range(64) for path in (router_path, moe_norm_path)]
    return [checkpoint.file(path) for path in paths]


def run_command(*arguments: str) -> tuple[int, int, float]:
    """Bytes read, peak resident bytes and seconds of one run of the command."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - started
    _, code, n_read, peak = done.stdout.splitlines()[-1].split()
    if code != "0":
        raise RuntimeError(f"lens.extract ended with {code}: {done.stderr}")
    return int(n_read), int(peak), seconds


def plain_read(files: list[Path]) -> float:
    """Seconds to read the files whole, one after another."""
    started = time.perf_counter()
    for file in files:
        file.read_bytes()
    return time.perf_counter() - started


def measured() -> list[Row]:
    """Reads, peak memory and times, medians of alternating runs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        files = make_checkpoint(folder)
        n_bytes = sum(file.stat().st_size for file in files)
        whole = sum(file.stat().st_size for file in (folder / "ckpt-0").iterdir())
        command = ["--checkpoint", str(folder), "--output", str(Path(temporary) / "routers.npz")]
        run_command("--help"), run_command(*command), plain_read(files)  # warm
        imports, runs, reads, parts = [], [], [], []
        for _ in range(REPEATS):
            imports.append(run_command("--help"))
            runs.append(run_command(*command))
            reads.append(plain_read(files))
            started = time.perf_counter()
            extract_routers(folder)
            parts.append(time.perf_counter() - started)
    read = statistics.median(run[0] - alone[0] for run, alone in zip(runs, imports, strict=True))
    peak = statistics.median(run[1] - alone[1] for run, alone in zip(runs, imports, strict=True))
    seconds = [run[2] - alone[2] for run, alone in zip(runs, imports, strict=True)]
    return [
        Row("files in the checkpoint", 770, "", digits=0, note=f"{whole / 1e9:,.1f} GB, sparse"),
        Row("bytes of the 128 files", n_bytes, "", digits=0),
        Row("bytes read", read, "", digits=0),
        Row("bytes read / bytes of the files", read / n_bytes, "", limit=LIMIT_READ, digits=4),
        Row("peak memory over the imports alone", peak / 1e6, "MB", limit=LIMIT_MEMORY),
        Row("command, start to end", 1e3 * statistics.median(run[2] for run in runs), "ms"),
        Row("of that, without start and imports", 1e3 * statistics.median(seconds), "ms"),
        Row("of that, reading, checking and hashing", 1e3 * statistics.median(parts), "ms"),
        Row("plain read of the 128 files", 1e3 * statistics.median(reads), "ms"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table; returns 1 when a limit is not held."""
    print(f"Extraction from a full-size checkpoint, median of {REPEATS} runs")
    rows = measured()
    print(table(rows))
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())
