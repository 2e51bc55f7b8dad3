"""Products of rows with stored weights: the way that is chosen, beside all that are known.

    python -m benchmarks products [--small]

One expert's matrix each of int8 (as streaming reads Grok-1's), bfloat16, FP8 and MXFP4, with 1 to
256 rows in float32 and in bfloat16. Ways take turns in one run, so the ratios of their times hold
whatever else the machine does. Beside the ways of `grok.architectures.products`, and for int8 the
hand-written loops, stands numpy over blocks of the matrix. The claim: what is chosen here takes at
most 1.25 times as long as the fastest of all, for every kind and number of rows.

Shares of the limit say how far the best is from what the machine could do: the longer of reading
the weights from memory once, at the rate at which all processors together read, and of the
operations at the rate of a large float32 product; processors with bfloat16 units pass it.
"""

from __future__ import annotations

import argparse
import mmap
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.rows import Row, exit_code, table
from grok.architectures.chosen_ways import ROWS, seconds_of
from grok.architectures.products import FEW, LARGE, Way, kind_of, product_way, ways_of
from grok.architectures.samples import sample
from grok.architectures.stored_values import float_values
from grok.engine.sharding import processors
from grok.streaming.int8_matmul import NAMES, int8_way, product_by

SHAPES = {
    "int8 from disk": (6144, 32768),  # Grok-1
    "int8": (6144, 32768),
    "bfloat16 turned": (2048, 1024),  # OLMoE
    "bfloat16": (2880, 5760),  # gpt-oss, not quantized
    "fp8": (7168, 2048),  # DeepSeek-V3
    "mxfp4": (2880, 5760),  # gpt-oss
}
SMALL = (1024, 1024)
BLOCK = 256
REPEATS = 7
LIMIT = 1.25
SECONDS = 0.5  # for each way
COPIES = 3 * 2**26  # bytes of matrices that take turns, so that no cache keeps them

Run = Callable[[], object]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table for each kind as it is done; returns 1 when the limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks products")
    parser.add_argument("--small", action="store_true", help="small matrices, to see that it runs")
    small = parser.parse_args(argv).small
    memory = huge(2**24 if small else 2**28)
    rates = read_rate(memory, processors()), float32_rate(512 if small else 2048)
    rows = [
        Row("reading memory, all processors", rates[0] / 1e9, "GB/s"),
        Row("float32 matrix product", rates[1] / 1e9, "GFLOP/s"),
    ]
    print(table(rows), flush=True)
    spent = 0.01 if small else SECONDS
    for kind, shape in SHAPES.items():
        size = SMALL if small else shape
        for dtype in ("float32", "bfloat16"):
            some = [compared(kind, dtype, count, size, rates, spent) for count in ROWS]
            if small:  # chosen for large ones
                some = [replace(row, limit=None) for row in some]
            print(table(some), flush=True)
            rows += some
    return exit_code(rows)


def compared(
    kind: str,
    dtype: str,
    count: int,
    shape: tuple[int, int],
    rates: tuple[float, float],
    spent: float,
) -> Row:
    """The chosen way's time over that of the fastest, and all others'."""
    known, name, times = runs(kind, dtype, count, shape)
    seconds = {way: t / times for way, t in seconds_of(known, spent).items()}
    fastest = min(seconds, key=lambda way: seconds[way])
    stored = sample(kind.removesuffix(" from disk"), 256, 256).nbytes / 256**2 * shape[0] * shape[1]
    limit = max(stored / rates[0], 2 * count * shape[0] * shape[1] / rates[1])
    others = ", ".join(f"{way} {t / seconds[fastest]:.2f}" for way, t in seconds.items())
    return Row(
        f"{kind}, {dtype} rows, {count}: {name} over the fastest",
        seconds[name] / seconds[fastest],
        "",
        LIMIT,
        digits=2,
        note=f"{seconds[fastest] * 1e3:.2f} ms, {limit / seconds[fastest]:.0%} of float32's limit; "
        f"{others}",
    )


def runs(
    kind: str, dtype: str, count: int, shape: tuple[int, int]
) -> tuple[dict[str, Run], str, int]:
    """A run of each way, the name of the one that is chosen, and how many products a run makes."""
    if kind == "int8 from disk":
        return (*from_disk(dtype, count, shape), 1)
    one = sample(kind, *shape)
    n_copies = max(1, min(16, COPIES // one.nbytes))
    own = [jax.tree.map(jnp.asarray, one) for _ in range(n_copies)]
    x = jnp.asarray(np.random.default_rng(1).standard_normal((count, shape[0])), dtype)
    known: dict[str, Run] = {}
    for name, way in ways_of(kind).items():
        if name != "sums" or count <= FEW:
            known[name] = partial(_each, _compiled(way, product_dtype(one, x)), x, own)
    if kind.startswith("bfloat16"):
        values = np.asarray(one.values if hasattr(one, "values") else one.T)  # [N, K]
        known["numpy, blocks"] = partial(_numpy_blocks, np.asarray(x, np.float32), values, n_copies)
    assert kind_of(one) == kind
    chosen = product_way(x, one) if one.shape[0] * one.shape[1] >= LARGE else "plain"
    return known, chosen, n_copies


def _compiled(way: Way, dtype: Any) -> Callable[..., jax.Array]:
    return jax.jit(lambda x, w: way(x, w, dtype))


def product_dtype(w: Any, x: jax.Array) -> Any:
    """The wider of the dtypes of values and rows."""
    return jnp.promote_types(x.dtype, jax.eval_shape(lambda: float_values(w, x.dtype)).dtype)


def _each(run: Callable[..., jax.Array], x: jax.Array, own: Sequence[Any]) -> object:
    return jax.block_until_ready([run(x, w) for w in own])


def _numpy_blocks(x: np.ndarray, values: np.ndarray, times: int) -> object:
    out = np.empty((len(x), len(values)), np.float32)
    for _ in range(times):
        for first in range(0, len(values), BLOCK):
            some = slice(first, first + BLOCK)
            out[:, some] = x @ values[some].astype(np.float32).T
    return out


def from_disk(dtype: str, count: int, shape: tuple[int, int]) -> tuple[dict[str, Run], str]:
    """As `runs`, one product each, of a matrix in a read buffer; rows of bfloat16 values ask for
    roundings."""
    k, n = shape
    rng = np.random.default_rng(0)
    w = huge(k * n).reshape(k, n)
    for block in range(0, k, BLOCK):
        w[block : block + BLOCK] = rng.integers(-127, 128, (BLOCK, n), np.int8)
    scales = rng.uniform(0.5, 1.5, n).astype(np.float32) * np.float32(1e-3)
    rounded = dtype == "bfloat16"
    x = np.asarray(jnp.asarray(rng.standard_normal((count, k)), dtype).astype(jnp.float32))
    out = np.zeros((count, n), np.float32)
    known: dict[str, Run] = {
        name: partial(product_by, name, out, x, w, scales, rounded) for name in NAMES
    }
    known["numpy, blocks"] = partial(_numpy_int8, out, x, w, scales)
    return known, int8_way(w, count, rounded)


def _numpy_int8(out: np.ndarray, x: np.ndarray, w: np.ndarray, scales: np.ndarray) -> None:
    total = np.zeros(out.shape, np.float32)
    for first in range(0, w.shape[0], BLOCK):
        some = slice(first, first + BLOCK)
        total += x[:, some] @ w[some].astype(np.float32)
    out += total * scales


def huge(size: int) -> np.ndarray:
    """Bytes in large pages where the system has them, as read buffers are."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass
    return np.frombuffer(memory, np.int8)


def best(run: Run, repeats: int = REPEATS) -> float:
    """Seconds of the fastest of some runs, after one to warm up."""
    run()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def read_rate(values: np.ndarray, parts: int) -> float:
    """Bytes per second at which all processors together read an array from memory."""
    words = values.reshape(-1).view(np.int64)
    words[:] = 1  # pages that nothing was written to are all one
    cuts = np.linspace(0, words.size, parts + 1).astype(int)
    with ThreadPoolExecutor(parts) as pool:

        def read() -> None:
            jobs = zip(cuts[:-1], cuts[1:], strict=True)
            list(pool.map(lambda cut: np.bitwise_or.reduce(words[cut[0] : cut[1]]), jobs))

        return values.nbytes / best(read)


def float32_rate(size: int = 2048) -> float:
    """Operations per second of a product of two square float32 matrices."""
    a = np.random.default_rng(1).standard_normal((size, size)).astype(np.float32)
    out = np.empty_like(a)
    return 2 * size**3 / best(lambda: np.matmul(a, a, out=out))


if __name__ == "__main__":
    sys.exit(main())
