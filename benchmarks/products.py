"""Products of a few rows with one int8 matrix of Grok-1's experts, against this machine's limit.

    python -m benchmarks products

The limit of a product is the longer of two times, both measured in the same run: reading its
int8 weights from memory once at the rate at which all processors together read, and its
multiplications and additions at the rate of a large float32 matrix product (numpy's library).
float32, because the third product of an expert takes float32 rows by the model's definition, and
nothing here is quantized further. The claim: at most 1 / 0.6 of that limit for 1, 4, 16 and 64
rows, with the scale applied to the sums. "As the compiled model" rounds int8 times scale to
bfloat16 first, which streaming does for the first two products where scales are bfloat16.

The other ways, in the same run: widening the whole matrix and multiplying, with JAX; JAX over
blocks of 256 rows, the scale applied to the sums; numpy over such blocks.
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.rows import Row, exit_code, table

ROWS = (1, 4, 16, 64)
SHAPE = (6144, 32768)  # one expert's GELU branch
BLOCK = 256
REPEATS = 7
LIMIT = 1 / 0.6


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 when the limit is broken."""
    from grok.streaming.int8_matmul import add_product, threads

    k, n = SHAPE
    rng = np.random.default_rng(0)
    w = huge(k * n).reshape(k, n)
    for block in range(0, k, BLOCK):
        w[block : block + BLOCK] = rng.integers(-127, 128, (BLOCK, n), np.int8)
    scales = rng.uniform(0.5, 1.5, n).astype(np.float32) * np.float32(1e-3)
    read, arithmetic = read_rate(w, threads()), float32_rate()
    rows = [
        Row("reading memory, all processors", read / 1e9, "GB/s"),
        Row("float32 matrix product", arithmetic / 1e9, "GFLOP/s"),
    ]
    ways = other_ways(w, scales)
    for count in ROWS:
        x = rng.standard_normal((count, k)).astype(np.float32)
        out = np.zeros((count, n), np.float32)
        limit = max(w.nbytes / read, 2 * count * w.size / arithmetic)
        binds = "reading" if w.nbytes / read >= limit else "arithmetic"
        ours = best(lambda out=out, x=x: add_product(out, x, w, scales))  # type: ignore[misc]
        rounded = best(
            lambda out=out, x=x: add_product(out, x, w, scales, rounded=True)  # type: ignore[misc]
        )
        rows += [
            Row(f"{count:>2} rows: the limit, by {binds}", limit * 1e3, "ms"),
            Row(
                f"{count:>2} rows: streaming's product, over the limit",
                ours / limit,
                "",
                LIMIT,
                digits=2,
                note=f"{limit / ours:.0%} of it; {ours * 1e3:.1f} ms, {_speed(w, count, ours)}",
            ),
            Row(
                f"{count:>2} rows: rounded as the compiled model",
                rounded / ours,
                "times as long",
                digits=2,
                note=f"{limit / rounded:.0%} of the limit; {_speed(w, count, rounded)}",
            ),
        ]
        for name, way in ways.items():
            seconds = best(lambda x=x, way=way: way(x), 3)  # type: ignore[misc]
            rows.append(
                Row(
                    f"{count:>2} rows: {name}",
                    seconds / ours,
                    "times as long",
                    digits=2,
                    note=f"{limit / seconds:.0%} of the limit; {_speed(w, count, seconds)}",
                )
            )
    print(table(rows))
    return exit_code(rows)


def _speed(w: np.ndarray, rows: int, seconds: float) -> str:
    gigabytes, operations = w.nbytes / seconds / 1e9, 2 * rows * w.size / seconds / 1e9
    return f"{gigabytes:.2f} GB/s of weights, {operations:.0f} GFLOP/s"


def huge(size: int) -> np.ndarray:
    """Bytes in large pages where the system has them, as read buffers are."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass
    return np.frombuffer(memory, np.int8)


def best(run: Callable[[], object], repeats: int = REPEATS) -> float:
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


def other_ways(w: np.ndarray, scales: np.ndarray) -> dict[str, Callable[[np.ndarray], object]]:
    """What else multiplies float rows with int8 weights, by name."""
    import jax
    import jax.numpy as jnp

    placed, own = jax.device_put(w), jax.device_put(scales)
    blocks = placed.reshape(-1, BLOCK, w.shape[1])

    @jax.jit
    def widening(x: jax.Array) -> jax.Array:
        values = placed.astype(jnp.bfloat16) * own.astype(jnp.bfloat16)
        return x.astype(jnp.bfloat16) @ values

    @jax.jit
    def scanning(x: jax.Array) -> jax.Array:
        parts = jnp.moveaxis(x.astype(jnp.bfloat16).reshape(len(x), -1, BLOCK), 1, 0)

        def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            part, weights = pair
            dot = jnp.dot(part, weights.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
            return total + dot, None

        zero = jnp.zeros((len(x), w.shape[1]), jnp.float32)
        return jax.lax.scan(add, zero, (parts, blocks))[0] * own

    def numpy_blocks(x: np.ndarray) -> np.ndarray:
        total = np.zeros((len(x), w.shape[1]), np.float32)
        for first in range(0, w.shape[0], BLOCK):
            own_rows = slice(first, first + BLOCK)
            total += x[:, own_rows] @ w[own_rows].astype(np.float32)
        return total * scales

    return {
        "JAX, the matrix widened": lambda x: jax.block_until_ready(widening(x)),
        "JAX, blocks of the matrix": lambda x: jax.block_until_ready(scanning(x)),
        "numpy, blocks of the matrix": numpy_blocks,
    }


if __name__ == "__main__":
    sys.exit(main())
