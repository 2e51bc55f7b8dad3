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

from grok.architectures.architecture import Architecture, Dispatch, all_specs
from grok.architectures.moe import GELU, ExpertForm, Experts, run_selected
from grok.checkpoints.tensor_spec import Stored, TensorSpec
from grok.config import ModelConfig
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
    config: ModelConfig,
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


def partition(spec: TensorSpec, shape: tuple[int, ...], mesh: Mesh) -> P:
    """How an array of a parameter, its values or its scales, is split over `mesh`."""
    if spec.split is None:
        return P()
    axis, units = spec.split
    model = mesh.shape["model"]
    if units % model or shape[axis] % model:
        return P()
    return P(*("model" if i == axis else None for i in range(len(shape))))


def put_on_devices(spec: TensorSpec, tensor: Stored, mesh: Mesh) -> Any:
    """The parameter on the devices of `mesh`; quantized values and their scales are split
    alike."""

    def put(array: np.ndarray) -> jax.Array:
        if mesh.size == 1:
            return jax.device_put(array, mesh.devices.item())
        sharding = NamedSharding(mesh, partition(spec, array.shape, mesh))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    if isinstance(tensor, np.ndarray):
        return put(tensor)
    return jax.tree.map(put, tensor)


@lru_cache(maxsize=16)
def dispatch_over(mesh: Mesh) -> Dispatch:
    """`run_selected` with every device computing its own experts' share of its rows."""
    if mesh.size == 1:
        return run_selected

    def share(
        x: jax.Array,
        experts: jax.Array,
        gates: jax.Array,
        own: Experts,
        *,
        summed: bool,
        form: ExpertForm,
    ) -> jax.Array:
        n_own = own.activated.shape[0]
        local = experts - jax.lax.axis_index("model") * n_own
        local = jnp.where((local >= 0) & (local < n_own), local, n_own)
        out = run_selected(x, local, gates, own, summed=summed, form=form)
        return jax.lax.psum(out, "model")

    def dispatch(
        x: jax.Array,
        experts: jax.Array,
        gates: jax.Array,
        all_: Experts,
        *,
        summed: bool = True,
        form: ExpertForm = GELU,
    ) -> jax.Array:
        rows = P("data") if x.shape[0] % mesh.shape["data"] == 0 else P()
        run = partial(jax.shard_map, mesh=mesh, check_vma=False)
        own_share = partial(share, summed=summed, form=form)
        return run(own_share, in_specs=(rows, rows, rows, P("model")), out_specs=rows)(
            x, experts, gates, all_
        )

    return dispatch


def memory_needed(architecture: Architecture, *, as_released: bool = True) -> int:
    """Bytes of the weights as they are held.

    Args:
        architecture: the model.
        as_released: False: all in float32, as a checkpoint that was not quantized may be.
    """
    return sum(spec.n_bytes if as_released else 4 * spec.size for spec in all_specs(architecture))


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


def processors() -> int:
    """Processors that this process may use, which can be fewer than the machine has."""
    own = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(own(0)) if own else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes of the machine's memory that nobody uses; all of it where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
