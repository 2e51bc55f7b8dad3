"""An engine whose weights are all on the devices."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.sharding import Mesh

from grok.checkpoints.grok1 import Checkpoint
from grok.checkpoints.routing_identity import checkpoint_sha256, deciding_paths
from grok.engine.engine import Engine
from grok.engine.progress import Progress
from grok.engine.resident import Resident
from grok.engine.sharding import put_on_devices


def resident_engine(
    checkpoint: Checkpoint, dtype: str, mesh: Mesh, progress: Progress | None
) -> tuple[Engine, str]:
    """Everything on the devices, and the hash over routers and norms."""
    config = checkpoint.config
    deciding = deciding_paths(config)
    routers: dict[str, np.ndarray] = {}
    layers: list[dict[str, Any]] = [{} for _ in range(config.n_layers)]
    io: dict[str, Any] = {}
    for i, path in enumerate(checkpoint.paths):
        tensor = checkpoint.read(path)
        if path in deciding:
            routers[path] = np.asarray(tensor).astype(np.float32)
        placed = put_on_devices(config, path, tensor, mesh)
        if path.startswith("transformer/"):
            _, layer, leaf = path.split("/", 2)
            layers[int(layer.rsplit("_", 1)[1])][leaf] = placed
        else:
            io[path] = placed
        if progress is not None:
            progress(i + 1, len(checkpoint.paths))
    resident = Resident(config, layers, io, dtype, mesh)
    return Engine(config, dtype, resident, resident), checkpoint_sha256(config, routers)
