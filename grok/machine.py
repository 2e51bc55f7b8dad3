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
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grok.checkpoint import Checkpoint

CHUNK = 8 * 2**20  # of one read
STRETCH = 64 * 2**20  # read in sequence before the next place
ENOUGH = 32 * 2**20  # below it a read says nothing about the disk
OWN_FILE = 96 * 2**20  # of the file that is written where no tensor file can be read
ALIGNMENT = 4096
MATRIX = (2048, 32768)  # int8, 64 MB: larger than the processor's caches
MANY_ROWS = 256


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
        read_from: how the disk was measured, or why not; a sentence.
        resident_bytes_per_s: as `products_bytes_per_s`, of the compiled resident layer on
            all devices together.
        resident_flops: as `flops`, likewise.
    """

    read_bytes_per_s: float | None
    products_bytes_per_s: float | None
    flops: float | None
    memory_bytes: int
    devices: str
    device_bytes: int
    on_cpu: bool = True
    read_from: str = ""
    resident_bytes_per_s: float | None = None
    resident_flops: float | None = None


def unmeasured() -> Rates:
    """Memory and devices alone, which need no time."""
    import jax

    from grok.sharding import _free_memory, device_memory

    devices = jax.devices()
    on_cpu = devices[0].platform == "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = f"CPU, {cores} cores" if on_cpu else f"{len(devices)} x {devices[0].device_kind}"
    return Rates(
        None, None, None, _free_memory(), name, device_memory() * jax.process_count(), on_cpu
    )


def rates(checkpoint: Checkpoint, seconds: float = 1.5) -> Rates:
    """Measures this machine for `checkpoint`; takes about `seconds`, and some to compile.

    The disk is measured on the checkpoint's own largest files, at places drawn at
    random. Where they are too small or sparse, a file of 96 MB without a name is
    written beside them, read and gone; where that cannot be written, the disk is not
    measured. Of the checkpoint nothing else is read.
    """
    import dataclasses

    read, how = read_rate(checkpoint, 0.5 * seconds)
    products, operations = product_rates(0.5 * seconds)
    return dataclasses.replace(
        unmeasured(),
        read_bytes_per_s=read,
        read_from=how,
        products_bytes_per_s=products,
        flops=operations,
    )


# --- the disk -------------------------------------------------------------------------------


def read_rate(checkpoint: Checkpoint, seconds: float) -> tuple[float | None, str]:
    """Bytes a second of sequential reads of the checkpoint's disk, and how that was found."""
    files = _solid_files(checkpoint.ckpt_dir)
    if sum(n_bytes for _, n_bytes in files) >= ENOUGH:
        try:
            n_read, took, direct = _timed(_stretches(files), seconds)
        except OSError as error:
            return None, f"The disk was not measured: {error.strerror}."
        how = "past the page cache" if direct else "through the page cache"
        return n_read / took, f"Reading {n_read / 1e6:,.0f} MB of the checkpoint's files {how}."
    try:
        with tempfile.TemporaryFile(dir=checkpoint.ckpt_dir) as stream:
            _fill(stream.fileno(), seconds)
            size = os.fstat(stream.fileno()).st_size
            direct = _make_direct(stream.fileno())
            n_read, took = _read(stream.fileno(), 0, size, seconds)
    except OSError as error:
        return None, (
            "The disk was not measured: the checkpoint's files are too small or sparse, and none "
            f"could be written beside them ({error.strerror})."
        )
    how = "past the page cache" if direct else "through the page cache"
    return n_read / took, (
        f"Reading {n_read / 1e6:,.0f} MB of a file made for it {how}; the checkpoint's own are "
        "too small or sparse."
    )


def _solid_files(folder: Path) -> list[tuple[Path, int]]:
    """Files of at least a chunk whose bytes are really on the disk, largest first."""
    found = []
    for entry in os.scandir(folder):
        if not entry.is_file():
            continue
        status = entry.stat()
        stored = getattr(status, "st_blocks", status.st_size // 512 + 1) * 512
        if status.st_size >= CHUNK and stored >= status.st_size // 2:
            found.append((Path(entry.path), status.st_size))
    largest = max((n_bytes for _, n_bytes in found), default=0)
    return sorted((item for item in found if 2 * item[1] >= largest), key=lambda item: -item[1])


def _stretches(files: list[tuple[Path, int]]) -> Iterator[tuple[Path, int, int]]:
    """(file, offset, bytes) without end, in random order, so that no cache has them ready."""
    places = [
        (file, offset, min(STRETCH, n_bytes - offset))
        for file, n_bytes in files
        for offset in range(0, n_bytes, STRETCH)
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
    data = os.urandom(CHUNK)
    started = time.perf_counter()
    for written in range(0, OWN_FILE, CHUNK):
        os.write(handle, data)
        if written >= ENOUGH and time.perf_counter() - started > seconds:
            break


def _read(handle: int, offset: int, n_bytes: int, seconds: float) -> tuple[int, float]:
    """Bytes read from `offset` on and seconds taken; stops when the time is over."""
    with mmap.mmap(-1, CHUNK) as buffer:  # starts at a page, as direct reads ask
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
    """(int8 weight bytes a second for one row, operations a second for many rows)."""
    block = np.random.default_rng(0).integers(-127, 128, (64, MATRIX[1]), np.int8)
    weights = np.tile(block, (MATRIX[0] // 64, 1))
    one = _median_seconds(lambda: _product(_rows(1), weights), 0.4 * seconds)
    many = _median_seconds(lambda: _product(_rows(MANY_ROWS), weights), 0.6 * seconds)
    return weights.nbytes / one, 2.0 * MANY_ROWS * weights.size / many


def _rows(count: int) -> np.ndarray:
    return np.ones((count, MATRIX[0]), np.float32)


def _product(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """x @ weights, [N, K] float32 @ [K, M] int8, without a float copy of the whole matrix."""
    out = np.zeros((x.shape[0], weights.shape[1]), np.float32)
    for first in range(0, weights.shape[0], 64):
        out += x[:, first : first + 64] @ weights[first : first + 64].astype(np.float32)
    return out


def _median_seconds(run: Callable[[], object], seconds: float) -> float:
    """Median of as many runs as the time allows, at least three, after one that warms up."""
    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
        if len(times) >= 50:
            break
    return statistics.median(times)
