"""Reading a checkpoint onto the devices there are."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from grok.checkpoint import Checkpoint, open_checkpoint
from grok.config import BUNDLED_MODEL
from grok.errors import DeviceError, GrokError
from grok.model import Generation, Model, Progress, Step
from grok.passes import Forward, bucket
from grok.sharding import device_memory, initialize_distributed, make_mesh, memory_needed
from grok.tokenizer import Tokenizer

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


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "bfloat16",
    tokenizer: str | os.PathLike[str] | None = None,
    mesh: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Model:
    """Reads a checkpoint onto the devices there are.

    Args:
        path: folder that holds `ckpt-0`, or `ckpt-0` itself; the bundled model when None.
        dtype: of activations, "bfloat16" (as Grok-1 runs) or "float32".
        tokenizer: a SentencePiece file; by default `tokenizer.model` beside `ckpt-0`.
        mesh: (data, model) sizes; by default all devices, split as the experts allow.
        progress: called with (tensors read, tensors in all).

    Raises:
        GrokError: an unusable checkpoint, tokenizer or mesh, or too little memory, with what
            was found, what was expected and what to do.
    """
    if dtype not in DTYPES:
        raise GrokError(f"dtype is {dtype!r}; expected bfloat16 or float32.")
    initialize_distributed()
    checkpoint = open_checkpoint(path if path is not None else BUNDLED_MODEL)
    check_memory(checkpoint)
    file = Path(tokenizer) if tokenizer is not None else checkpoint.tokenizer_file
    vocabulary = Tokenizer(file, checkpoint.config.vocab_size) if file is not None else None
    return Model(checkpoint, dtype, vocabulary, make_mesh(checkpoint.config, mesh), progress)


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
            "Run it where there is room (for Grok-1 eight 80 GB GPUs), or open a saved trace."
        )
    missing = checkpoint.missing()
    if missing:
        raise GrokError(
            f"{checkpoint.ckpt_dir}: {len(missing)} of {len(checkpoint.paths)} tensor files are "
            f"missing, the first is {checkpoint.file(missing[0]).name} ({missing[0]}). Complete "
            "the download. (The routers alone can be studied with python -m lens.extract.)"
        )
