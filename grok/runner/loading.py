"""Opening a checkpoint: all of it on the devices, or layer by layer from disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from grok.checkpoint import Checkpoint, moe_norm_path, open_checkpoint, router_path
from grok.config import BUNDLED_MODEL, GrokConfig
from grok.engine import Engine
from grok.errors import DeviceError, GrokError
from grok.model import Generation, Model, Step
from grok.passes import Forward, bucket
from grok.sharding import device_memory, initialize_distributed, make_mesh, memory_needed, place
from grok.streaming.memory import DEFAULT_BUDGET, sizes
from grok.tokenizer import Tokenizer
from grok.trace import routers_sha256
from grok.weights import Ends, Layers, Resident

if TYPE_CHECKING:
    from grok.planning import Decision

__all__ = [
    "Forward",
    "Generation",
    "Model",
    "Step",
    "bucket",
    "check_memory",
    "device_memory",
    "load",
    "memory_needed",
]

DTYPES = ("bfloat16", "float32")
MODES = ("auto", "resident", "streamed")

Progress = Callable[[int, int], None]


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    mode: str = "auto",
    memory_budget: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    dtype: str = "bfloat16",
    tokenizer: str | os.PathLike[str] | None = None,
    mesh: tuple[int, int] | None = None,
    progress: Progress | None = None,
    told: Callable[[Decision], object] | None = None,
) -> Model:
    """Opens a checkpoint to be run on the devices there are.

    Args:
        path: folder that holds `ckpt-0`, or `ckpt-0` itself; the bundled model when None.
        mode: "resident" holds all weights on the devices; "streamed" reads them layer by layer in
            every pass; "auto" is resident where they fit and streamed where they don't, after a
            measurement of about two seconds.
        memory_budget: bytes that the process may take when it streams (8 GB by default). On
            accelerators, as many layers stay in their memory as fit, and the others pass through.
        resume: folder in which streamed passes keep what they have computed, so that one that was
            killed goes on from its last finished layer; nothing is kept by default.
        dtype: of activations, "bfloat16" (as Grok-1 runs) or "float32".
        tokenizer: a SentencePiece file; by default `tokenizer.model` beside `ckpt-0`.
        mesh: (data, model) sizes; by default all devices, split as the experts allow.
        progress: called with (tensors read, tensors in all).
        told: called with the decision of "auto", before weights are read.

    Raises:
        GrokError: an unusable checkpoint, tokenizer or mesh, or too little memory, with what
            was found, what was expected and what to do.
    """
    if dtype not in DTYPES:
        raise GrokError(f"dtype is {dtype!r}; expected bfloat16 or float32.")
    if mode not in MODES:
        raise GrokError(f"mode is {mode!r:.40}; expected {', '.join(MODES)}.")
    initialize_distributed()
    checkpoint = open_checkpoint(path if path is not None else BUNDLED_MODEL)
    budget = DEFAULT_BUDGET if memory_budget is None else memory_budget
    decision: Decision | None = None
    if mode == "auto":
        decision = _decide(checkpoint, budget)
        mode = decision.mode
        if told is not None:
            told(decision)
    elif mode == "resident":
        check_memory(checkpoint)
    file = Path(tokenizer) if tokenizer is not None else checkpoint.tokenizer_file
    vocabulary = Tokenizer(file, checkpoint.config.vocab_size) if file is not None else None
    if mode == "resident":
        over = make_mesh(checkpoint.config, mesh)
        engine, sha256 = _resident(checkpoint, dtype, over, progress)
    else:
        keep = None if resume is None else Path(resume)
        own = jax.local_devices()[:1] if jax.devices()[0].platform == "cpu" else None
        over = make_mesh(checkpoint.config, mesh, devices=own)
        engine, sha256 = _streamed(checkpoint, dtype, over, budget, keep, progress)
    return Model(
        checkpoint.config,
        engine,
        name=checkpoint.folder.resolve().name,
        sha256=sha256,
        tokenizer=vocabulary,
        mesh=over,
        mode=mode,
        decision=decision,
    )


def _decide(checkpoint: Checkpoint, budget: int) -> Decision:
    """Measures the machine only when that changes what is done or said."""
    from grok.machine import rates, unmeasured
    from grok.planning import choose

    config = checkpoint.config
    needed, there = memory_needed(config), device_memory() * jax.process_count()
    if needed <= there:
        _check_complete(checkpoint)
        return choose(config, replace(unmeasured(), device_bytes=there), memory_budget=budget)
    sizes(config, budget)
    _check_complete(checkpoint)
    measured = replace(rates(checkpoint), device_bytes=there)
    return choose(config, measured, memory_budget=budget)


def _resident(
    checkpoint: Checkpoint, dtype: str, mesh: Mesh, progress: Progress | None
) -> tuple[Engine, str]:
    """Everything on the devices, and the hash over routers and norms."""
    config = checkpoint.config
    deciding = _deciding(config)
    routers: dict[str, np.ndarray] = {}
    layers: list[dict[str, Any]] = [{} for _ in range(config.n_layers)]
    io: dict[str, Any] = {}
    for i, path in enumerate(checkpoint.paths):
        tensor = checkpoint.read(path)
        if path in deciding:
            routers[path] = np.asarray(tensor).astype(np.float32)
        placed = place(config, path, tensor, mesh)
        if path.startswith("transformer/"):
            _, layer, leaf = path.split("/", 2)
            layers[int(layer.rsplit("_", 1)[1])][leaf] = placed
        else:
            io[path] = placed
        if progress is not None:
            progress(i + 1, len(checkpoint.paths))
    resident = Resident(config, layers, io, dtype, mesh)
    return Engine(config, dtype, resident, resident), _hash(config, routers)


def _streamed(
    checkpoint: Checkpoint,
    dtype: str,
    mesh: Mesh,
    budget: int,
    resume: Path | None,
    progress: Progress | None,
) -> tuple[Engine, str]:
    """Layers and table left on disk, and the hash over routers and norms."""
    from grok.streaming.ends import StreamedEnds
    from grok.streaming.layers import StreamedLayers, located
    from grok.streaming.resume import Keeper
    from grok.streaming.to_devices import DeviceLayers, ends_on_devices, fit

    config = checkpoint.config
    layers: Layers
    ends: Ends
    if mesh.devices.flat[0].platform != "cpu":
        there = device_memory()
        stay = fit(config, there)  # refused before any file is opened
        _check_complete(checkpoint)
        layers = DeviceLayers(checkpoint, dtype, mesh, stay, device_bytes=there, progress=progress)
        ends = ends_on_devices(checkpoint, dtype, mesh)
    else:
        sizes(config, budget)
        _check_complete(checkpoint)
        layers = StreamedLayers(checkpoint, dtype, mesh, budget)
        ends = StreamedEnds(checkpoint, dtype)
    routers = {}
    deciding = _deciding(config)
    for i, path in enumerate(deciding):
        routers[path] = np.asarray(checkpoint.read(path)).astype(np.float32)
        if progress is not None:
            progress(i + 1, len(deciding))
    keeper = None
    if resume is not None:
        files = located(checkpoint, everything=True)
        keeper = Keeper(resume, dtype, *(tensor.identity for tensor in files.values()))
    engine = Engine(config, dtype, layers, ends, keeper=keeper, tells=True)
    return engine, _hash(config, routers)


def _deciding(config: GrokConfig) -> list[str]:
    """Paths of what decides the routing: routers and the norms before them."""
    layers = range(config.n_layers)
    return [path for i in layers for path in (router_path(i), moe_norm_path(i))]


def _hash(config: GrokConfig, routers: dict[str, np.ndarray]) -> str:
    layers = range(config.n_layers)
    return routers_sha256(
        np.stack([routers[router_path(i)] for i in layers]),
        np.stack([routers[moe_norm_path(i)] for i in layers]),
    )


def check_memory(checkpoint: Checkpoint) -> None:
    """Refuses a model that the devices cannot hold, before anything is read.

    Raises:
        DeviceError: with the bytes needed and the bytes there are.
    """
    needed, there = memory_needed(checkpoint.config), device_memory() * jax.process_count()
    if needed > there:
        raise DeviceError(
            f"This model's weights take {needed / 1e9:,.0f} GB; the devices here hold "
            f"{there / 1e9:,.0f} GB ({len(jax.devices())} x {jax.devices()[0].device_kind}). "
            "Run it where there is room (for Grok-1 eight 80 GB GPUs), stream its layers from disk "
            '(mode="streamed"), or open a saved trace.'
        )
    _check_complete(checkpoint)


def _check_complete(checkpoint: Checkpoint) -> None:
    missing = checkpoint.missing()
    if missing:
        raise GrokError(
            f"{checkpoint.ckpt_dir}: {len(missing)} of {len(checkpoint.paths)} tensor files are "
            f"missing, the first is {checkpoint.file(missing[0]).name} ({missing[0]}). Complete "
            "the download. (The routers alone can be studied with python -m lens.extract.)"
        )
