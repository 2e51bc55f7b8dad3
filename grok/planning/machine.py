"""What this machine reads, computes and holds: a short measurement, on which plans rest.

Every rate is taken in the way that streamed execution works: the disk by large
sequential reads past the page cache, products with int8 weights that do not fit
a cache, of one row (bound by memory) and of many (bound by arithmetic).
"""

from __future__ import annotations

import mmap
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grok.checkpoints.tensor_spec import Checkpoint

if TYPE_CHECKING:
    from grok.architectures.architecture import Architecture

PIECE = 64 * 2**20  # of one read, as streaming reads
LARGE = 8 * 2**20  # of a file worth reading
ENOUGH = 32 * 2**20  # below it a read says nothing about the disk
OWN_FILE = 96 * 2**20  # of the file that is written where no tensor file can be read
BLOCK = 4096
WRITTEN = 8 * 2**20  # of it at once
MATRIX = (4096, 32768)  # int8, 128 MB: several times the processor's caches
MANY_ROWS = 64


@dataclass(frozen=True)
class Rates:
    """What was measured here; None where it was not.

    Attributes:
        read_bytes_per_s: of this checkpoint's disk.
        products_bytes_per_s: int8 weight bytes a second in a product with one row.
        flops: operations a second (a multiplication and an addition are two) of such
            products with many rows, activations float32.
        memory_bytes: free memory of the machine.
        devices: what JAX computes on, in words.
        device_bytes: what the devices hold; of a CPU, `memory_bytes`.
        on_cpu: whether the devices are this machine's processor.
        n_devices: how many there are.
        read_from: how the disk was measured, or why not; a sentence.
        resident_bytes_per_s: as `products_bytes_per_s`, of the compiled experts on one device
            that holds them.
        resident_flops: as `flops`, likewise.
    """

    read_bytes_per_s: float | None
    products_bytes_per_s: float | None
    flops: float | None
    memory_bytes: int
    devices: str
    device_bytes: int
    on_cpu: bool = True
    n_devices: int = 1
    read_from: str = ""
    resident_bytes_per_s: float | None = None
    resident_flops: float | None = None


def unmeasured() -> Rates:
    """Memory and devices alone, which need no time."""
    import jax

    from grok.engine.sharding import device_memory, free_memory, processors

    devices = jax.devices()
    on_cpu = devices[0].platform == "cpu"
    return Rates(
        None,
        None,
        None,
        memory_bytes=free_memory(),
        devices=f"CPU, {processors()} cores"
        if on_cpu
        else f"{len(devices)} x {devices[0].device_kind}",
        device_bytes=device_memory() * jax.process_count(),
        on_cpu=on_cpu,
        n_devices=1 if on_cpu else len(devices),
    )


def rates(
    checkpoint: Checkpoint,
    architecture: Architecture,
    seconds: float = 1.5,
    *,
    resident: bool = False,
) -> Rates:
    """Measures this machine for `checkpoint`; takes about `seconds`, and some to compile.

    Args:
        checkpoint: the model.
        architecture: its arithmetic.
        seconds: to measure for, shared by what is measured.
        resident: measure the resident model's experts too, where this machine's memory holds the
            model; on accelerators they are always measured, as streaming computes there.

    The disk is measured on the checkpoint's own largest files, at places drawn at
    random. Where they are too small or sparse, a file of 96 MB without a name is
    written beside them, read and gone; where that cannot be written, the disk is not
    measured. Of the checkpoint nothing else is read.
    """
    from grok.engine.sharding import memory_needed

    there = unmeasured()
    if there.on_cpu:
        resident = resident and memory_needed(architecture) <= there.device_bytes
    else:
        resident = True
    share = seconds / (3 if resident else 2)
    read, how = read_rate(checkpoint, share)
    products, operations = product_rates(share)
    there = replace(
        there,
        read_bytes_per_s=read,
        read_from=how,
        products_bytes_per_s=products,
        flops=operations,
    )
    if not resident:
        return there
    on_device = resident_rates(share, large=not there.on_cpu)
    return replace(there, resident_bytes_per_s=on_device[0], resident_flops=on_device[1])


# --- the disk -------------------------------------------------------------------------------


def read_rate(checkpoint: Checkpoint, seconds: float) -> tuple[float | None, str]:
    """Bytes a second of sequential reads of the checkpoint's disk, and how that was found."""
    own = False
    try:
        files = _solid_files(checkpoint.tensor_folder)
        own = sum(n_bytes for _, n_bytes in files) < ENOUGH
        if own:
            n_read, took, direct = _own_file(checkpoint.tensor_folder, seconds)
        else:
            n_read, took, direct = _timed(_pieces(files), seconds)
    except OSError as error:
        why = (
            "the checkpoint's files are too small or sparse, and no file could be made beside them"
        )
        why = f"{why} ({error.strerror})" if own else str(error.strerror)
        return None, f"The disk was not measured: {why}."
    if n_read == 0:
        return None, "The disk was not measured: nothing was read in the time given."
    what = "a file made for it" if own else "the checkpoint's files"
    how = "past the page cache" if direct else "through the page cache"
    found = f"Reading {n_read / 1e6:,.0f} MB of {what} {how}"
    if own:
        found += "; the checkpoint's own are too small or sparse"
    return n_read / took, f"{found}."


def _own_file(folder: Path, seconds: float) -> tuple[int, float, bool]:
    """As `_timed`, of a file without a name, written for it and gone when closed."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        handle = stream.fileno()
        _fill(handle, seconds)
        direct = _make_direct(handle)
        n_read, took = _read(handle, 0, os.fstat(handle).st_size, seconds)
    return n_read, max(took, 1e-9), direct


def _solid_files(folder: Path) -> list[tuple[Path, int]]:
    """Large files whose bytes are really on the disk, those of about the largest's size."""
    found = []
    for entry in os.scandir(folder):
        if not entry.is_file():
            continue
        status = entry.stat()
        stored = getattr(status, "st_blocks", status.st_size // 512 + 1) * 512
        if status.st_size >= LARGE and stored >= status.st_size // 2:
            found.append((Path(entry.path), status.st_size))
    largest = max((n_bytes for _, n_bytes in found), default=0)
    return [item for item in found if 2 * item[1] >= largest]


def _pieces(files: list[tuple[Path, int]]) -> Iterator[tuple[Path, int, int]]:
    """(file, offset, bytes) of each piece once, in random order: no cache has them ready."""
    places = [
        (file, offset, min(PIECE, n_bytes - offset))
        for file, n_bytes in files
        for offset in range(0, n_bytes, PIECE)
    ]
    random.shuffle(places)
    yield from places


def _timed(places: Iterator[tuple[Path, int, int]], seconds: float) -> tuple[int, float, bool]:
    """Bytes read, seconds taken, and whether all reads went past the page cache."""
    total, took, direct = 0, 0.0, True
    for file, offset, n_bytes in places:
        handle, is_direct = _open_direct(file)
        direct &= is_direct
        try:
            if not is_direct and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle, offset, n_bytes, os.POSIX_FADV_DONTNEED)
            n_read, spent = _read(handle, offset, n_bytes, seconds - took)
        finally:
            os.close(handle)
        total, took = total + n_read, took + spent
        if took >= seconds:
            break
    return total, max(took, 1e-9), direct


def _open_direct(file: Path) -> tuple[int, bool]:
    flag = getattr(os, "O_DIRECT", 0)
    if flag:
        try:
            return os.open(file, os.O_RDONLY | flag), True
        except OSError:
            pass  # a file system without it
    return os.open(file, os.O_RDONLY), False


def _make_direct(handle: int) -> bool:
    """Lets an open file be read past the page cache; returns whether that can be."""
    os.fsync(handle)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    if not hasattr(os, "O_DIRECT"):
        return False
    import fcntl

    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    return True


def _fill(handle: int, seconds: float) -> None:
    """Writes the file's bytes, random ones, fewer of them when that takes long."""
    data = os.urandom(WRITTEN)
    started = time.perf_counter()
    for written in range(0, OWN_FILE, WRITTEN):
        os.write(handle, data)
        if written >= ENOUGH and time.perf_counter() - started > seconds:
            break


def _read(handle: int, offset: int, n_bytes: int, seconds: float) -> tuple[int, float]:
    """Bytes read from `offset` on and seconds taken; stops when the time is over."""
    with mmap.mmap(-1, PIECE) as buffer:  # starts at a page, as direct reads ask
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them
                buffer.madvise(mmap.MADV_HUGEPAGE)
        buffer[::BLOCK] = bytes(PIECE // BLOCK)  # its pages are there before the clock runs
        started = time.perf_counter()
        total = 0
        while total < n_bytes and time.perf_counter() - started < seconds:
            got = os.preadv(handle, [buffer], offset + total)
            if got == 0:
                break
            total += got
        return total, time.perf_counter() - started


# --- products -------------------------------------------------------------------------------


def product_rates(seconds: float) -> tuple[float, float]:
    """(int8 weight bytes a second for one row, operations a second for many rows).

    Rounded as for bfloat16 activations, in which Grok-1 runs.
    """
    from grok.streaming.int8_matmul import add_product

    block = np.random.default_rng(0).integers(-127, 128, (64, MATRIX[1]), np.int8)
    whole = np.tile(block, (MATRIX[0] // 64, 1))
    part = whole[: MATRIX[0] // 8]  # of many rows the matrix need not exceed a cache
    scales = np.ones(MATRIX[1], np.float32)

    def once(rows: int, weights: np.ndarray) -> float:
        x = np.ones((rows, len(weights)), np.float32)
        out = np.zeros((rows, MATRIX[1]), np.float32)
        return _median_seconds(
            lambda: add_product(out, x, weights, scales, rounded=True), 0.4 * seconds
        )

    return whole.nbytes / once(1, whole), 2.0 * part.size * MANY_ROWS / once(MANY_ROWS, part)


def resident_rates(seconds: float, *, large: bool) -> tuple[float, float]:
    """As `product_rates`, of one expert as the resident model computes it, on one device.

    Args:
        large: an expert of Grok-1's size, as a GPU's caches hold smaller ones whole.
    """
    import jax
    import jax.numpy as jnp

    from grok.architectures.moe import Experts, run_selected
    from grok.checkpoints.tensor_file import QuantizedWeight8bit

    width, hidden = (6144, 32768) if large else (1024, 8192)

    def weight(rows: int, columns: int) -> QuantizedWeight8bit:
        values = jnp.ones((1, rows, columns), jnp.int8)
        return QuantizedWeight8bit(values, jnp.ones((1, 1, columns), jnp.bfloat16))  # type: ignore[arg-type]

    experts = Experts(weight(width, hidden), weight(width, hidden), weight(hidden, width))
    n_bytes = 3 * width * hidden
    run = jax.jit(run_selected)

    def once(rows: int) -> float:
        x = jnp.ones((rows, width), jnp.bfloat16)
        chosen, gates = jnp.zeros((rows, 1), jnp.int32), jnp.ones((rows, 1), jnp.float32)
        return _median_seconds(
            lambda: run(x, chosen, gates, experts).block_until_ready(), 0.4 * seconds
        )

    return n_bytes / once(1), 2.0 * n_bytes * MANY_ROWS / once(MANY_ROWS)


def _median_seconds(run: Callable[[], object], seconds: float) -> float:
    """Median of as many runs as the time allows, at least one, after one that warms up."""
    run()
    times: list[float] = []
    while sum(times) < seconds:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
        if len(times) >= 50:
            break
    return statistics.median(times)
