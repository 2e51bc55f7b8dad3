"""An engine whose weights stay on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from grok.checkpoints.grok1 import Checkpoint, check_complete
from grok.checkpoints.routing_identity import checkpoint_sha256, deciding_paths
from grok.engine.engine import Engine
from grok.engine.interfaces import EmbedUnembed, Layers
from grok.engine.progress import Progress
from grok.engine.sharding import device_memory
from grok.streaming.host_memory import sizes


def streamed_engine(
    checkpoint: Checkpoint,
    dtype: str,
    mesh: Mesh,
    budget: int,
    resume: Path | None,
    progress: Progress | None,
) -> tuple[Engine, str]:
    """Layers and table left on disk, and the hash over routers and norms."""
    from grok.streaming.device_layers import DeviceLayers, embed_unembed_on_devices, fit
    from grok.streaming.embed_unembed import StreamedEmbedUnembed
    from grok.streaming.host_layers import StreamedLayers, located
    from grok.streaming.resume import Keeper

    config = checkpoint.config
    layers: Layers
    embed_unembed: EmbedUnembed
    if mesh.devices.flat[0].platform != "cpu":
        there = device_memory()
        stay = fit(config, there)  # refused before any file is opened
        check_complete(checkpoint)
        layers = DeviceLayers(checkpoint, dtype, mesh, stay, device_bytes=there, progress=progress)
        embed_unembed = embed_unembed_on_devices(checkpoint, dtype, mesh)
    else:
        sizes(config, budget)
        check_complete(checkpoint)
        layers = StreamedLayers(checkpoint, dtype, mesh, budget)
        embed_unembed = StreamedEmbedUnembed(checkpoint, dtype)
    routers = {}
    deciding = deciding_paths(config)
    for i, path in enumerate(deciding):
        routers[path] = np.asarray(checkpoint.read(path)).astype(np.float32)
        if progress is not None:
            progress(i + 1, len(deciding))
    keeper = None
    if resume is not None:
        files = located(checkpoint, everything=True)
        keeper = Keeper(resume, dtype, *(tensor.identity for tensor in files.values()))
    engine = Engine(config, dtype, layers, embed_unembed, keeper=keeper, tells=True)
    return engine, checkpoint_sha256(config, routers)
