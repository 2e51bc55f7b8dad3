"""Opening a checkpoint: all of it on the devices, or layer by layer from disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from grok.architectures.architecture import Architecture
from grok.architectures.families import architecture_of, open_checkpoint
from grok.checkpoints.chat.template import read_chat_template
from grok.checkpoints.tensor_spec import Checkpoint
from grok.checkpoints.tokenizer import open_tokenizer
from grok.config import BUNDLED_MODEL
from grok.engine.compiled import Forward, bucket
from grok.engine.opening import resident_engine
from grok.engine.progress import Progress
from grok.engine.sharding import (
    device_memory,
    initialize_distributed,
    make_mesh,
    memory_needed,
)
from grok.errors import DeviceError, GrokError
from grok.runner.model import Model
from grok.runner.results import Generation, Step
from grok.streaming.by_expert.memory import expert_sizes, largest_piece
from grok.streaming.host_memory import DEFAULT_BUDGET, sizes
from grok.streaming.opening import streamed_engine

if TYPE_CHECKING:
    from grok.planning.modes import Decision

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


# many parameters: the public door to a model, all but one by name and with a default
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
    architecture = architecture_of(checkpoint)
    budget = DEFAULT_BUDGET if memory_budget is None else memory_budget
    decision: Decision | None = None
    if mode == "auto":
        decision = _decide(checkpoint, architecture, budget)
        mode = decision.mode
        if told is not None:
            told(decision)
    elif mode == "resident":
        check_memory(checkpoint, architecture)
    file = Path(tokenizer) if tokenizer is not None else checkpoint.tokenizer_file
    vocabulary = open_tokenizer(file, checkpoint.config.vocab_size) if file is not None else None
    if mode == "resident":
        over = make_mesh(checkpoint.config, mesh)
        engine, sha256 = resident_engine(checkpoint, architecture, dtype, over, progress)
    else:
        keep = None if resume is None else Path(resume)
        own = jax.local_devices()[:1] if jax.devices()[0].platform == "cpu" else None
        over = make_mesh(checkpoint.config, mesh, devices=own)
        engine, sha256 = streamed_engine(
            checkpoint, architecture, dtype, over, budget, keep, progress
        )
    return Model(
        engine,
        name=checkpoint.folder.resolve().name,
        sha256=sha256,
        tokenizer=vocabulary,
        mesh=over,
        mode=mode,
        decision=decision,
        chat_template=read_chat_template(checkpoint.folder),
    )


def _decide(checkpoint: Checkpoint, architecture: Architecture, budget: int) -> Decision:
    """Measures the machine only when that changes what is done or said."""
    from grok.planning.machine import rates, unmeasured
    from grok.planning.modes import choose

    needed, there = memory_needed(architecture), device_memory() * jax.process_count()
    if needed <= there:
        checkpoint.check_complete()
        return choose(architecture, replace(unmeasured(), device_bytes=there), memory_budget=budget)
    if architecture.by_expert:
        expert_sizes(architecture, budget, largest_piece(architecture))
    else:
        sizes(architecture, budget)
    checkpoint.check_complete()
    measured = replace(rates(checkpoint, architecture), device_bytes=there)
    return choose(architecture, measured, memory_budget=budget)


def check_memory(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """Refuses a model that the devices cannot hold, before anything is read.

    Raises:
        DeviceError: with the bytes needed and the bytes there are.
    """
    needed, there = memory_needed(architecture), device_memory() * jax.process_count()
    if needed > there:
        raise DeviceError(
            f"This model's weights take {needed / 1e9:,.0f} GB; the devices here hold "
            f"{there / 1e9:,.0f} GB ({len(jax.devices())} x {jax.devices()[0].device_kind}). "
            "Run it where there is room (for Grok-1 eight 80 GB GPUs), stream its layers from disk "
            '(mode="streamed"), or open a saved trace.'
        )
    checkpoint.check_complete()
