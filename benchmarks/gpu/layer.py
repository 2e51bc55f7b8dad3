"""One decoder layer on a device for measurements, what it costs, and what the device can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grok.architectures.architecture import Cache, Dispatch
from grok.architectures.grok1 import Grok1
from grok.architectures.moe import Experts
from grok.architectures.stored_values import float_values
from grok.checkpoints.tensor_file import QuantizedWeight8bit
from grok.checkpoints.tensor_spec import TensorSpec
from grok.config import GROK_1, GrokConfig
from grok.engine.compiled import layer_pass

CONTEXT = 512  # positions that a decoded token attends to
FULL = replace(GROK_1, vocab_size=1024)  # the ends are not measured
SMALL = replace(
    GROK_1, vocab_size=512, d_model=192, n_heads=12, n_kv_heads=2, d_head=16, n_layers=3
)
DTYPE = "bfloat16"


def random_layer(config: GrokConfig, seed: int = 0, device: Any = None) -> dict[str, Any]:
    """A layer's weights made on the device: int8 values, scales that keep rows of order 1."""
    architecture = Grok1(config)
    specs = architecture.layer_specs(0)
    router = architecture.router_spec(0)
    keys = jax.random.split(jax.random.key(seed), len(specs))
    made = {
        spec.leaf: _random(spec, key, router=spec == router)
        for spec, key in zip(specs, keys, strict=True)
    }
    return jax.device_put(made, device) if device is not None else made


def _random(spec: TensorSpec, key: jax.Array, *, router: bool) -> Any:
    shape = spec.shape
    if router:
        return jax.random.normal(key, shape) / jnp.sqrt(shape[0])
    if not spec.quantizable:
        return jnp.ones(shape)
    values = _int8(key, shape)
    spread = 256 / 12**0.5  # of whole numbers spread evenly over int8
    scales = jnp.full((*shape[:-2], spec.scale_groups, shape[-1]), 1 / (spread * shape[-2] ** 0.5))
    return QuantizedWeight8bit(values, scales.astype(jnp.bfloat16))  # type: ignore[arg-type]


@partial(jax.jit, static_argnames=("shape",))
def _int8(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Evenly spread int8 values, a matrix at a time: all random bits of a layer are too many."""
    n = int(np.prod(shape[:-2], dtype=np.int64))

    def matrix(own: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(jax.random.bits(own, shape[-2:], jnp.uint8), jnp.int8)

    return jax.lax.map(matrix, jax.random.split(key, n)).reshape(shape)


def every_slot(
    x: jax.Array, experts: jax.Array, gates: jax.Array, weights: Experts, *, summed: bool = True
) -> jax.Array:
    """All experts for each of a token's slots, as the official code computes them.

    Products in the dtype of the rows; one expert after another, so that it fits one device.
    """
    n, k = experts.shape
    rows, chosen = jnp.repeat(x, k, axis=0), experts.reshape(-1)

    def one(out: jax.Array, own: tuple[Any, ...]) -> tuple[jax.Array, None]:
        e, gelu, linear, down = own
        first = jnp.dot(rows, float_values(gelu, x.dtype).astype(x.dtype))
        second = jnp.dot(rows, float_values(linear, x.dtype).astype(x.dtype))
        hidden = jax.nn.gelu(first, approximate=True) * second
        found = jnp.dot(hidden, float_values(down, x.dtype).astype(x.dtype))
        return jnp.where((chosen == e)[:, None], found.astype(jnp.float32), out), None

    out = jnp.zeros((n * k, x.shape[1]), jnp.float32)
    out, _ = jax.lax.scan(one, out, (jnp.arange(weights.activated.shape[0]), *weights[:3]))
    weighted = out.reshape(n, k, -1) * gates.astype(x.dtype).astype(jnp.float32)[..., None]
    return jnp.sum(weighted, axis=1) if summed else weighted


# --- running it -----------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Rows that go through a layer: `batch` sequences of `tokens`, which attend to `context`."""

    batch: int
    tokens: int
    context: int

    @property
    def rows(self) -> int:
        """Token rows."""
        return self.batch * self.tokens

    @property
    def name(self) -> str:
        """For the table."""
        if self.tokens > 1:
            return f"prefill of {self.rows}"
        return f"decode of {self.rows}"


class Running:
    """A layer called again and again on the same rows."""

    def __init__(self, config: GrokConfig, mesh: Mesh, shape: Shape, seed: int = 1) -> None:
        self.config, self.mesh, self.shape = config, mesh, shape
        # Placed as layers leave them, so that no second program is compiled for the first call.
        placed = partial(jax.device_put, device=mesh.devices.item())
        rows = (shape.batch, shape.tokens, config.d_model)
        self.h = placed(jax.random.normal(jax.random.key(seed), rows))
        self.start = np.int32(shape.context - shape.tokens)
        self.keys = np.ones((shape.batch, shape.context), bool)
        cache = Grok1(config).empty_cache(shape.batch, shape.context, jnp.dtype(DTYPE))
        self.cache: Cache = jax.tree.map(placed, cache)

    def once(self, params: Any, dispatch: Dispatch, h: Any = None) -> tuple[jax.Array, Any]:
        """The stream after the layer, and the router's choice; not waited for."""
        given = self.h if h is None else h
        h, choice, self.cache, _ = layer_pass(
            Grok1(self.config),
            params,
            given,
            self.start,
            self.keys,
            self.cache,
            dispatch,
            self.mesh,
            {},
            (),
        )
        return h, choice


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median time of a call whose result is waited for, after two that do not count."""
    for _ in range(2):
        jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


# --- what it costs --------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Of one layer for some rows. bytes: of weights, keys and values that are touched once;
    operations: multiplications and additions."""

    bytes: float
    operations: float


def cost(config: GrokConfig, shape: Shape, experts: np.ndarray) -> Cost:
    """What a layer needs for rows whose tokens chose these experts [..., K]."""
    d, f = config.d_model, config.d_ff
    attention = 2 * d * config.d_head * (config.n_heads + config.n_kv_heads)
    used = len(np.unique(experts))
    scales = 2 * (2 * f + 8 * d)
    own = used * (3 * d * f + scales) + attention + 4 * d * (4 + config.n_experts)
    cached = 2 * 2 * shape.batch * shape.context * config.n_kv_heads * config.d_head
    products = attention + experts.shape[-1] * 3 * d * f + config.n_experts * d
    scores = 2 * config.n_heads * config.d_head * shape.context
    return Cost(own + cached, 2.0 * shape.rows * (products + scores))


# --- what the device can do -----------------------------------------------------


@dataclass(frozen=True)
class Ceilings:
    """Measured on the device. read, copy: bytes of its memory per second, read and written
    counted; matrix: operations per second of a large bfloat16 product; put, put_pinned: bytes
    per second from the host, None where there is no such memory."""

    read: float
    copy: float
    matrix: float
    put: float
    put_pinned: float | None

    def seconds(self, cost: Cost) -> tuple[float, str]:
        """The least time that a cost takes, and which limit that is."""
        by_memory = cost.bytes / max(self.read, self.copy)
        by_matrix = cost.operations / self.matrix
        return max((by_memory, "memory"), (by_matrix, "arithmetic"))


def ceilings(device: Any, n_bytes: int, width: int, repeats: int, *, pinned: bool) -> Ceilings:
    """Measures with arrays of `n_bytes` and products of [width, width] random matrices."""
    with jax.default_device(device):
        whole = jax.random.bits(jax.random.key(0), (n_bytes // 4,), jnp.uint32)
        read = jax.jit(lambda a: jnp.sum(a, dtype=jnp.uint32))
        copied = jax.jit(lambda a: a + jnp.uint32(1))
        a, b = jax.random.normal(jax.random.key(1), (2, width, width), jnp.bfloat16)
        product = jax.jit(jnp.dot)
        read_rate = n_bytes / median_seconds(lambda: read(whole), repeats)
        copy_rate = 2 * n_bytes / median_seconds(lambda: copied(whole), repeats)
        matrix_rate = 2 * width**3 / median_seconds(lambda: product(a, b), repeats)
    host = np.random.default_rng(0).integers(0, 255, n_bytes // 4, np.uint8)
    put = host.nbytes / median_seconds(lambda: jax.device_put(host, device), repeats)
    put_pinned = None
    if pinned:
        there = jax.sharding.SingleDeviceSharding(device)
        held = jax.device_put(host, there.with_memory_kind("pinned_host"))
        put_pinned = host.nbytes / median_seconds(lambda: jax.device_put(held, there), repeats)
    return Ceilings(read_rate, copy_rate, matrix_rate, put, put_pinned)
