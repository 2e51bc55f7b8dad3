"""A run over several devices: a ("data", "model") mesh, named as the runner's.

Tokens of a batch are split along "data" and features along "model": encoders, decoders, thresholds
and Adam's moments lie in parts, one a device. Sums over features or tokens are added up by the
devices, so a step has the numbers of one device, up to the order of sums. What stands here is the
placing; `grok.dictionaries.kinds.selection` chooses who is active.

With several processes each computes the activations of the whole batch, and the first one writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grok.errors import DeviceError

T = TypeVar("T")
# By the name that an array has in `State`, Adam's moments as their parameters; others lie whole
# on each device.
SPLITS = {
    "encoder": P(None, None, "model"),
    "encoder_bias": P(None, "model"),
    "decoder": P("model"),
    "threshold": P(None, "model"),
    "idle": P(None, "model"),
    "x": P(None, "data"),
    "y": P(None, "data"),
    "chosen": P(None, "data"),
}


def open_mesh(shape: tuple[int, int] | None, features: int, batch: int) -> Mesh | None:
    """A mesh over the first devices there are; None for a single one.

    Args:
        shape: (data, model) sizes; None where none is asked for.
        features: of a group, which "model" must divide.
        batch: tokens, which "data" must divide.

    Raises:
        DeviceError: there are too few devices, or what is split does not divide.
    """
    if shape is None:
        if jax.process_count() > 1:
            raise DeviceError("Several processes need --mesh DATA,MODEL over the devices of all.")
        return None
    data, model = shape
    check_mesh(shape, features, batch)
    devices = jax.devices()
    if data * model > len(devices) or jax.process_count() > 1 and data * model < len(devices):
        raise DeviceError(
            f"--mesh {data},{model} needs {data * model} devices; {len(devices)} are there, of "
            f"{jax.process_count()} processes. Choose sizes whose product that is."
        )
    if data * model == 1:
        return None
    return Mesh(np.array(devices[: data * model]).reshape(shape), ("data", "model"))


def check_mesh(shape: tuple[int, int], features: int, batch: int) -> None:
    """Refuses a mesh that cannot split a dictionary; see `open_mesh`."""
    data, model = shape
    if min(shape) < 1:
        raise DeviceError(f"--mesh {data},{model}; expected two numbers of 1 or more, such as 2,4.")
    for what, n, name, size in (
        ("tokens of a batch", batch, "data", data),
        ("features of a group", features, "model", model),
    ):
        if n % size:
            raise DeviceError(
                f"--mesh {data},{model}: {n:,} {what} do not divide among {size} devices; choose "
                f'another size of "{name}", or another number of them.'
            )


def split_of(path: tuple[object, ...]) -> P:
    """How an array is split, by its path in a pytree."""
    names = (getattr(key, "name", getattr(key, "key", None)) for key in reversed(path))
    return next((SPLITS[name] for name in names if name in SPLITS), P())


def _each(function: Callable[[object, NamedSharding], object], tree: T, mesh: Mesh) -> T:
    found: T = jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(leaf, NamedSharding(mesh, split_of(path))), tree
    )
    return found


def constrained(tree: T, mesh: Mesh | None) -> T:
    """The same, told inside a program where its arrays lie."""
    return tree if mesh is None else _each(jax.lax.with_sharding_constraint, tree, mesh)


def on_devices(tree: T, mesh: Mesh | None, *, split: bool = True) -> T:
    """Arrays on the mesh, or on the one device.

    Args:
        tree: of arrays, the same in every process.
        mesh: None for one device.
        split: False: whole on each device.
    """
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, tree)

    def put(leaf: object, where: NamedSharding) -> object:
        array = np.asarray(leaf)
        where = where if split else NamedSharding(mesh, P())
        return jax.make_array_from_callback(array.shape, where, lambda index: array[index])

    return _each(put, tree, mesh)


def on_host(tree: T) -> T:
    """Whole arrays of this machine's memory; every process has to ask."""

    def whole(leaf: object) -> object:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)


def first_process() -> bool:
    """Whether this process is the one that writes and tells."""
    return jax.process_index() == 0
