"""Placing a model on the devices there are: a ("data", "model") mesh for any number of them.

Experts, attention heads and vocabulary rows are split along "model"; sequences
(or, of a single one, its token rows in the experts' part) along "data". What
does not divide evenly is replicated, so any device count works.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grok.architectures.grok1 import Dispatch
from grok.architectures.moe import Experts, run_selected
from grok.checkpoints.grok1 import EMBEDDING, QuantizedWeight8bit, Tensor, is_matrix
from grok.config import GrokConfig
from grok.errors import DeviceError


def initialize_distributed() -> bool:
    """Joins a multi-process run when JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID are set; returns whether this is one. Call before any device is used."""
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not address or jax.distributed.is_initialized():
        return bool(address)
    try:
        jax.distributed.initialize(
            address,
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
        )
    except (KeyError, ValueError) as error:
        raise DeviceError(
            f"JAX_COORDINATOR_ADDRESS is set, but JAX_NUM_PROCESSES or JAX_PROCESS_ID is not a "
            f"number ({error}). Set all three, or none for a single process."
        ) from error
    return True


def make_mesh(
    config: GrokConfig,
    shape: tuple[int, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A ("data", "model") mesh over all devices.

    Args:
        config: the model; the "model" axis must divide its experts.
        shape: (data, model) sizes; by default "model" is as large as the experts allow.
        devices: those to use.

    Raises:
        DeviceError: the shape does not fit the devices or the experts.
    """
    devices = jax.devices() if devices is None else list(devices)
    if shape is None:
        model = int(np.gcd(len(devices), config.n_experts))
        shape = len(devices) // model, model
    if shape[0] * shape[1] > len(devices) or min(shape) < 1:
        raise DeviceError(
            f"A mesh of {shape[0]} x {shape[1]} needs {shape[0] * shape[1]} devices; "
            f"{len(devices)} are there."
        )
    if config.n_experts % shape[1]:
        raise DeviceError(
            f"{config.n_experts} experts cannot be split over {shape[1]} devices; "
            'choose a size of the "model" axis that divides them.'
        )
    return Mesh(np.array(devices[: shape[0] * shape[1]]).reshape(shape), ("data", "model"))


def partition(config: GrokConfig, path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """How the array of `shape` at parameter `path` (values or scales) is split over `mesh`."""
    model = mesh.shape["model"]

    def split_axis(axis: int, units: int) -> P:
        if units % model or shape[axis] % model:
            return P()
        return P(*("model" if i == axis else None for i in range(len(shape))))

    if path == EMBEDDING:
        return split_axis(0, shape[0])
    if not is_matrix(path):
        return P()
    if "/moe/" in path:
        return split_axis(0, config.n_experts)
    if path.endswith("query/w"):
        return split_axis(1, config.n_heads)
    if path.endswith("multi_head_attention/linear/w"):
        return split_axis(0, config.n_heads)
    return split_axis(1, config.n_kv_heads)


def put_on_devices(config: GrokConfig, path: str, tensor: Tensor, mesh: Mesh) -> Any:
    """The parameter on the devices of `mesh`; int8 values and their scales are split alike."""

    def put(array: np.ndarray) -> jax.Array:
        if mesh.size == 1:
            return jax.device_put(array, mesh.devices.item())
        sharding = NamedSharding(mesh, partition(config, path, array.shape, mesh))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    if isinstance(tensor, QuantizedWeight8bit):
        return QuantizedWeight8bit(put(tensor.weight), put(tensor.scales))  # type: ignore[arg-type]
    return put(tensor)


@lru_cache(maxsize=16)
def dispatch_over(mesh: Mesh) -> Dispatch:
    """`run_selected` with every device computing its own experts' share of its rows."""
    if mesh.size == 1:
        return run_selected

    def share(
        x: jax.Array, experts: jax.Array, gates: jax.Array, own: Experts, *, summed: bool
    ) -> jax.Array:
        n_own = own.gelu.shape[0]
        local = experts - jax.lax.axis_index("model") * n_own
        local = jnp.where((local >= 0) & (local < n_own), local, n_own)
        return jax.lax.psum(run_selected(x, local, gates, own, summed=summed), "model")

    def dispatch(
        x: jax.Array, experts: jax.Array, gates: jax.Array, all_: Experts, *, summed: bool = True
    ) -> jax.Array:
        rows = P("data") if x.shape[0] % mesh.shape["data"] == 0 else P()
        run = partial(jax.shard_map, mesh=mesh, check_vma=False)
        own_share = partial(share, summed=summed)
        return run(own_share, in_specs=(rows, rows, rows, P("model")), out_specs=rows)(
            x, experts, gates, all_
        )

    return dispatch


def memory_needed(config: GrokConfig, *, int8: bool = True) -> int:
    """Bytes of the weights as they are held: int8 matrices with bfloat16 scales, or float32."""
    matrices = config.n_parameters() - config.vocab_size * config.d_model
    return matrices * (1 if int8 else 4) + config.vocab_size * config.d_model * 4


def device_memory() -> int:
    """Bytes that all local devices can hold together (of a CPU: the machine's free memory)."""
    total = 0
    for device in jax.local_devices():
        stats = device.memory_stats() if device.platform != "cpu" else None
        if stats and "bytes_limit" in stats:
            total += int(stats["bytes_limit"])
    if total:
        return total
    return free_memory()


def free_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
