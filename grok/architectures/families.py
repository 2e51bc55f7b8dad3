"""The families of models that can be run, and how a folder is recognised as one of theirs.

Opening a folder needs no JAX: a family's arithmetic is imported when a model is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grok.architectures.huggingface import folder as hf
from grok.checkpoints import grok1 as grok1_files
from grok.checkpoints import token_embedding
from grok.checkpoints.tensor_spec import Checkpoint
from grok.checkpoints.token_embedding import TokenEmbedding
from grok.config import ModelConfig

if TYPE_CHECKING:
    from grok.architectures.architecture import Architecture


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        name: for messages.
        recognises: whether a folder holds a model of it; opens no tensor.
        open: the checkpoint in a folder, its config read and checked.
        architecture: of the config of such a checkpoint; imports JAX.
        embedding: the token embedding of such a checkpoint, by rows; None: the first of what stands
            outside the layers, as it is stored.
    """

    name: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], Checkpoint]
    architecture: Callable[[Any], Architecture]
    embedding: Callable[[Any], TokenEmbedding] | None = None


def _grok1(config: Any) -> Architecture:
    from grok.architectures.grok1 import Grok1

    return Grok1(config)


def _transformer(config: Any) -> Architecture:
    from grok.architectures.huggingface.model import MoeTransformer

    return MoeTransformer(config)


# Asked in this order; the last takes every folder, so that its own error says what is missing.
FAMILIES = [
    Family("Hugging Face", hf.is_one, hf.open_checkpoint, _transformer, hf.open_embedding),
    Family(
        "Grok-1",
        lambda folder: True,
        grok1_files.open_checkpoint,
        _grok1,
        token_embedding.open_embedding,
    ),
]


def family_of(folder: str | os.PathLike[str]) -> Family:
    """The family that a folder's files belong to."""
    return next(family for family in FAMILIES if family.recognises(Path(folder)))


def open_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a folder, of whatever family.

    Raises:
        CheckpointError: no files of a model there.
        ConfigError: a `config.json` that describes none.
    """
    return family_of(folder).open(Path(folder))


def open_embedding(checkpoint: Checkpoint) -> TokenEmbedding:
    """The token embedding of an opened checkpoint, its values still on disk.

    Raises:
        CheckpointError: missing, damaged, or of another shape or dtype than the config says.
    """
    family = family_of(checkpoint.folder)
    if family.embedding is None:
        spec = architecture_for(family, checkpoint.config).outer_specs()[0]
        return token_embedding.table_of(checkpoint, spec)
    return family.embedding(checkpoint)


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """The arithmetic of an opened checkpoint."""
    return architecture_for(family_of(checkpoint.folder), checkpoint.config)


def architecture_for(family: Family, config: ModelConfig) -> Architecture:
    """The arithmetic of a model of a family."""
    return family.architecture(config)
