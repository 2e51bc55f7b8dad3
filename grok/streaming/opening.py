"""An engine whose weights stay on disk."""

from __future__ import annotations

from pathlib import Path

from jax.sharding import Mesh

from grok.architectures.architecture import Architecture, all_specs
from grok.checkpoints.safetensors_folder import SafetensorsFolder
from grok.checkpoints.tensor_offsets import FileIdentity
from grok.checkpoints.tensor_spec import Checkpoint, located, read_parameter
from grok.engine.engine import Engine
from grok.engine.interfaces import EmbedUnembed, Layers
from grok.engine.opening import RoutingHash
from grok.engine.progress import Progress
from grok.engine.sharding import device_memory
from grok.streaming.host_memory import sizes


def streamed_engine(
    checkpoint: Checkpoint,
    architecture: Architecture,
    dtype: str,
    mesh: Mesh,
    budget: int,
    resume: Path | None,
    progress: Progress | None,
) -> tuple[Engine, str]:
    """Layers and table left on disk, and the hash over routers and norms."""
    from grok.streaming.by_expert.layers import ExpertLayers
    from grok.streaming.device_layers import DeviceLayers, embed_unembed_on_devices, fit
    from grok.streaming.embed_unembed import StreamedEmbedUnembed
    from grok.streaming.host_layers import StreamedLayers
    from grok.streaming.resume import Keeper

    layers: Layers
    embed_unembed: EmbedUnembed
    if mesh.devices.flat[0].platform != "cpu":
        there = device_memory()
        stay = fit(architecture, there)  # refused before any file is opened
        checkpoint.check_complete()
        layers = DeviceLayers(
            checkpoint, architecture, dtype, mesh, stay, device_bytes=there, progress=progress
        )
        embed_unembed = embed_unembed_on_devices(checkpoint, architecture, dtype, mesh)
    elif isinstance(checkpoint, SafetensorsFolder):
        checkpoint.check_complete()
        layers = ExpertLayers(checkpoint, architecture, dtype, mesh, budget)
        embed_unembed = StreamedEmbedUnembed(checkpoint, architecture, dtype)
    else:
        sizes(architecture, budget)
        checkpoint.check_complete()
        layers = StreamedLayers(checkpoint, architecture, dtype, mesh, budget)
        embed_unembed = StreamedEmbedUnembed(checkpoint, architecture, dtype)
    routing = RoutingHash(architecture)
    for i, spec in enumerate(routing.specs):
        routing.take(spec, read_parameter(checkpoint, spec))
        if progress is not None:
            progress(i + 1, len(routing.specs))
    keeper = None
    if resume is not None:
        keeper = Keeper(resume, dtype, *_identities(checkpoint, architecture))
    engine = Engine(architecture, dtype, layers, embed_unembed, keeper=keeper, tells=True)
    return engine, routing.sha256()


def _identities(checkpoint: Checkpoint, architecture: Architecture) -> list[FileIdentity]:
    """What tells that the files of a model are still those they were."""
    if isinstance(checkpoint, SafetensorsFolder):
        parts = (part for name in checkpoint.paths for part in checkpoint.parts(name))
        return sorted({part.identity for part in parts}, key=lambda one: one.path)
    files = located(checkpoint, all_specs(architecture))
    return [tensor.identity for tensor in files.values()]
