"""The token embedding of a checkpoint, for what its experts listen to."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from grok.architectures.families import open_checkpoint, open_embedding
from grok.checkpoints.token_embedding import TokenEmbedding
from grok.checkpoints.tokenizer import open_tokenizer
from lens.errors import LensError, as_lens_error
from lens.extract.folder import folder_routers
from lens.recipe.steps import remembered
from lens.routers.router_set import RouterSet
from lens.storage.disk_cache import DiskCache
from lens.vocabulary.one_token import TokenReading, token_reading
from lens.vocabulary.readout import Readout, ReadoutSettings
from lens.vocabulary.readout_store import stored_readout

Piece = Callable[[int], str]


@as_lens_error()
def checkpoint_readout(
    routers: RouterSet, path: str | os.PathLike[str], progress: Any = None
) -> tuple[Readout, Piece | None]:
    """Read-out of these routers, with the token embedding of the checkpoint they come from.

    Args:
        routers: the set.
        path: the folder of the checkpoint.
        progress: told how many tokens were read, and of how many.

    Returns:
        The read-out, and the text of a token id where the checkpoint has a tokenizer.

    Raises:
        LensError: the checkpoint has other routers, or cannot be read.
    """
    found = routers_readout(routers, path, progress=progress)
    checkpoint = open_checkpoint(path)
    if checkpoint.tokenizer_file is None:
        return found, None
    tokenizer = open_tokenizer(checkpoint.tokenizer_file, checkpoint.config.vocab_size)
    return found, tokenizer.piece


@remembered
@as_lens_error()
def routers_readout(
    routers: RouterSet,
    path: str | os.PathLike[str],
    settings: ReadoutSettings | None = None,
    progress: Any = None,
) -> Readout:
    """Read-out of these routers alone; see `checkpoint_readout`.

    Args:
        routers: the set.
        path: the folder of the checkpoint.
        settings: view, draws and seed.
        progress: told how many tokens were read, and of how many.

    Raises:
        LensError: the checkpoint has other routers, or cannot be read.
    """
    embedding = _embedding(routers, path)
    return stored_readout(
        routers, embedding, embedding.identity, settings, cache=DiskCache(), progress=progress
    )


@remembered
@as_lens_error()
def routers_token(
    routers: RouterSet, path: str | os.PathLike[str], token: int, view: str = "canonical"
) -> TokenReading:
    """One token of a checkpoint through every router; see `lens.vocabulary.one_token`.

    Raises:
        LensError: the checkpoint has other routers, or cannot be read.
    """
    return row_reading(routers, _embedding(routers, path), token, view)


def row_reading(
    routers: RouterSet, embedding: TokenEmbedding, token: int, view: str
) -> TokenReading:
    """One token of an embedding on disk through every router, as its model norms it.

    Raises:
        LensError, GrokError: the row cannot be read, or does not fit the routers.
    """
    return token_reading(
        routers,
        embedding.row(token),
        embedding.multiplier,
        view,
        epsilon=embedding.epsilon,
        centred=embedding.centred,
    )


def _embedding(routers: RouterSet, path: str | os.PathLike[str]) -> TokenEmbedding:
    own = folder_routers(path)
    if own.sha256 != routers.sha256:
        raise LensError(
            f"{path}: its routers have the SHA-256 {own.sha256[:12]}…, these "
            f"{routers.sha256[:12]}…; expected the checkpoint that they were extracted from, "
            "norm scales included."
        )
    return open_embedding(open_checkpoint(path))
