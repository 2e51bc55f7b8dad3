"""An engine whose weights are all on the devices."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.sharding import Mesh

from grok.architectures.architecture import Architecture
from grok.checkpoints.routing.identity import routers_sha256
from grok.checkpoints.tensor_spec import Checkpoint, Stored, TensorSpec, read_parameter
from grok.engine.engine import Engine
from grok.engine.progress import Progress
from grok.engine.resident import Resident
from grok.engine.sharding import put_on_devices


def resident_engine(
    checkpoint: Checkpoint,
    architecture: Architecture,
    dtype: str,
    mesh: Mesh,
    progress: Progress | None,
) -> tuple[Engine, str]:
    """Everything on the devices, and the hash over routers and norms."""
    routing = RoutingHash(architecture)
    n_read, n_tensors = 0, len(checkpoint.paths)

    def placed(spec: TensorSpec) -> Any:
        nonlocal n_read
        tensor = read_parameter(checkpoint, spec)
        routing.take(spec, tensor)
        n_read += len(spec.names)
        if progress is not None:
            progress(n_read, n_tensors)
        return put_on_devices(spec, tensor, mesh)

    outer = {spec.leaf: placed(spec) for spec in architecture.outer_specs()}
    layers = [
        {spec.leaf: placed(spec) for spec in architecture.layer_specs(layer)}
        for layer in range(architecture.config.n_layers)
    ]
    resident = Resident(architecture, layers, outer, dtype, mesh)
    return Engine(architecture, dtype, resident, resident), routing.sha256()


class RoutingHash:
    """The hash over what decides the routing: all routers, and the norms before them.

    Attributes:
        specs: of the parameters that it needs, layer by layer.
    """

    def __init__(self, architecture: Architecture) -> None:
        layers = architecture.config.moe_layers
        self._routers = [architecture.router_spec(layer) for layer in layers]
        self._norms = [architecture.router_norm_spec(layer) for layer in layers]
        self._values: dict[tuple[str, ...], np.ndarray] = {}

    @property
    def specs(self) -> list[TensorSpec]:
        pairs = zip(self._routers, self._norms, strict=True)
        return [spec for pair in pairs for spec in pair]

    def take(self, spec: TensorSpec, tensor: Stored) -> None:
        """Keeps a parameter if it is one of them."""
        if spec in self._routers or spec in self._norms:
            self._values[spec.names] = np.asarray(tensor).astype(np.float32)

    def sha256(self) -> str:
        """The hash, once all were taken; as in a routers `.npz`."""
        routers, norms = (
            np.stack([self._values[spec.names] for spec in specs])
            for specs in (self._routers, self._norms)
        )
        return routers_sha256(routers, norms)
