"""The token embedding that belongs to the routers shown, and its read-out.

A small embedding is read at once. One of gigabytes is read when asked for, in
another thread, while this one shows how far it is; what it gave is kept on disk.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import streamlit as st

from grok.architectures.families import open_checkpoint, open_embedding
from grok.checkpoints.tensor_spec import Checkpoint
from grok.checkpoints.token_embedding import TokenEmbedding
from grok.checkpoints.tokenizer import Tokenizer, open_tokenizer
from grok.errors import GrokError, PromptError
from lens.errors import LensError
from lens.recipe.steps import note
from lens.routers.router_set import RouterSet
from lens.storage.disk_cache import DiskCache
from lens.vocabulary.from_checkpoint import routers_readout, routers_token, row_reading
from lens.vocabulary.one_token import TokenReading
from lens.vocabulary.readout import Readout, ReadoutSettings
from lens.vocabulary.readout_store import kept_readout, stored_readout
from pages.shell import data_source
from pages.shell.session_keys import SessionKey, SessionValue

AT_ONCE = 64 * 2**20  # bytes of an embedding that is read without asking
DISK_SPEED = 8e8  # bytes a second that a disk gives and a hash takes, about
READOUTS = SessionValue[dict[str, Readout]](SessionKey.READOUTS)
OVERHEAD = 2.0  # all the work, in times of its matrix product, as measured


@dataclass(frozen=True)
class Source:
    """An embedding that belongs to the routers shown.

    Attributes:
        folder: of the checkpoint that it lies in.
        embedding: its rows.
        tokenizer: turns ids into pieces; None where the checkpoint has none.
        problem: why there is no tokenizer, where one was expected.
    """

    folder: str
    embedding: TokenEmbedding
    tokenizer: Tokenizer | None
    problem: str | None = None

    def piece(self, token: int) -> str:
        """The text of a token, or its number."""
        return f"#{token}" if self.tokenizer is None else self.tokenizer.piece(token)


def find(routers: RouterSet) -> Source | str:
    """The embedding of the model that these routers are of, or why there is none at hand."""
    sources = data_source.available()
    current = data_source.source()
    checkpoints = [name for name in ("checkpoint", "bundled") if name in sources]
    checkpoints.sort(key=lambda name: name != current)
    reasons = []
    for name in checkpoints:
        try:
            found = data_source.routers_of(name)
            if found.sha256 == routers.sha256:
                return _opened(checkpoint_path(name))
        except (LensError, GrokError) as error:
            reasons.append(str(error))
            continue
        if name == "checkpoint":
            reasons.append(
                "The configured checkpoint holds other routers "
                f"(SHA-256 {found.sha256[:12]}… against {routers.sha256[:12]}…)."
            )
    if "checkpoint" not in sources:
        reasons.append(
            "Start the app with `--checkpoint DIR`, the folder of the model that these routers "
            "come from."
        )
    if routers.norm_scales is None:
        reasons.append(
            "These routers come without norm scales; take them from the checkpoint together."
        )
    return (
        "What the experts listen to is read from the model's token embedding, which a router file "
        "does not hold, and no model at hand has these routers. " + " ".join(reasons)
    )


def checkpoint_path(name: str) -> str:
    """The folder of a source that is a checkpoint."""
    named = data_source.configured().checkpoint
    return named if name == "checkpoint" and named else str(data_source.bundled_checkpoint())


def _opened(path: str) -> Source:
    checkpoint = open_checkpoint(path)
    embedding = open_embedding(checkpoint)
    if checkpoint.tokenizer_file is None:
        return Source(path, embedding, None)
    try:
        changed = checkpoint.tokenizer_file.stat().st_mtime_ns
        return Source(
            path, embedding, _tokenizer(str(checkpoint.tokenizer_file), changed, checkpoint)
        )
    except (GrokError, OSError) as error:
        return Source(path, embedding, None, str(error))


@st.cache_resource(max_entries=4, show_spinner=False)
def _tokenizer(file: str, changed: int, _checkpoint: Checkpoint) -> Tokenizer:
    assert _checkpoint.tokenizer_file is not None
    return open_tokenizer(_checkpoint.tokenizer_file, _checkpoint.config.vocab_size)


@st.cache_resource(max_entries=2, show_spinner=False)
def pieces(_tokenizer: Tokenizer, file: str) -> list[str]:
    """The text of every token by itself, to search in."""
    return [_tokenizer.piece(token) for token in range(_tokenizer.n_pieces)]


# --- the read-out ------------------------------------------------------------


class Stopped(Exception):
    """The visitor went elsewhere or pressed Cancel."""


def known(routers: RouterSet, source: Source, settings: ReadoutSettings) -> Readout | None:
    """The read-out, if it takes no wait: computed at once, by this session, or kept on disk."""
    found = _known(routers, source, settings)
    if found is not None:
        note(found, routers_readout, routers, source.folder, settings)
    return found


def _known(routers: RouterSet, source: Source, settings: ReadoutSettings) -> Readout | None:
    embedding = source.embedding
    if embedding.n_bytes <= AT_ONCE:
        with st.spinner("Reading the vocabulary …", show_time=False):
            return _computed(_key(routers, embedding, settings), routers, embedding, settings, None)
    kept = READOUTS.kept(dict)
    key = _key(routers, embedding, settings)
    if key not in kept:
        readout = kept_readout(routers, embedding, embedding.identity, settings, DiskCache())
        if readout is None:
            return None
        kept.clear()  # one is enough: others come back from the disk
        kept[key] = readout
    return kept[key]


def computed(
    routers: RouterSet,
    source: Source,
    settings: ReadoutSettings,
    on_progress: Callable[[float, float], None],
) -> Readout:
    """The read-out of a large embedding, read in another thread.

    Args:
        on_progress: told the share that is done and the seconds since the start; called in
            this thread, a few times a second.

    Raises:
        LensError, GrokError: the embedding cannot be read; the text says why.
    """
    embedding = source.embedding
    done = [0.0]
    stopped = threading.Event()

    def progress(read: int, total: int) -> None:
        if stopped.is_set():
            raise Stopped
        done[0] = read / total

    key = _key(routers, embedding, settings)
    start = time.monotonic()
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        work = pool.submit(_computed, key, routers, embedding, settings, progress)
        while not wait([work], timeout=0.2).done:
            on_progress(done[0], time.monotonic() - start)
        readout = work.result()
    finally:
        stopped.set()
        pool.shutdown(wait=False)
    kept = READOUTS.kept(dict)
    kept.clear()
    kept[key] = readout
    return readout


@st.cache_resource(max_entries=4, show_spinner=False)
def _computed(
    key: str,
    _routers: RouterSet,
    _embedding: TokenEmbedding,
    _settings: ReadoutSettings,
    _progress: Callable[[int, int], None] | None,
) -> Readout:
    """Computed once for all sessions; from and to the disk where it takes long."""
    if _embedding.n_bytes <= AT_ONCE:
        from lens.vocabulary.readout import vocabulary_readout

        return vocabulary_readout(_routers, _embedding, _settings)
    return stored_readout(
        _routers,
        _embedding,
        _embedding.identity,
        _settings,
        cache=DiskCache(),
        progress=_progress,
    )


def _key(routers: RouterSet, embedding: TokenEmbedding, settings: ReadoutSettings) -> str:
    return f"{routers.key}|{embedding}|{settings}"


def expected_seconds(routers: RouterSet, source: Source, settings: ReadoutSettings) -> float:
    """About how long the read-out takes here, from a small product of the same kind."""
    embedding = source.embedding
    columns = routers.n_layers * routers.n_experts + settings.draws
    speed = _product_speed(embedding.d_model)
    work = 2.0 * embedding.n_tokens * embedding.d_model * columns
    return embedding.n_bytes / DISK_SPEED + OVERHEAD * work / speed


@st.cache_data(max_entries=8, show_spinner=False)
def _product_speed(d_model: int) -> float:
    """Floating-point operations a second of a product of this width."""
    a = np.ones((512, d_model), np.float32)
    a @ a.T
    start = time.perf_counter()
    a @ a.T
    return 2.0 * 512 * 512 * d_model / max(time.perf_counter() - start, 1e-6)


def can_keep() -> str | None:
    """The reason why results cannot be kept on disk, or None."""
    folder = DiskCache().folder
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder.is_dir() and os.access(folder, os.W_OK):
        return None
    return f"{DiskCache().folder} cannot be written, so the result is kept for this session only."


# --- one token ---------------------------------------------------------------


def reading(routers: RouterSet, source: Source, token: int, view: str) -> TokenReading:
    """Push, margin and q of one token at every expert.

    Raises:
        LensError, GrokError: the row cannot be read.
    """
    key = f"{routers.key}|{source.embedding}|{view}|{token}"
    found = _reading(key, routers, source.embedding, token, view)
    note(found, routers_token, routers, source.folder, token, view)
    return found


@st.cache_data(max_entries=64, show_spinner=False)
def _reading(
    key: str, _routers: RouterSet, _embedding: TokenEmbedding, token: int, view: str
) -> TokenReading:
    return row_reading(_routers, _embedding, token, view)


def matches(source: Source, text: str, limit: int = 12) -> list[int]:
    """Tokens that a text means: an id as #123, the tokens it is cut into, pieces that hold it.

    Raises:
        GrokError: the text is not valid Unicode, or there is no token of this id.
    """
    text = text.strip()
    if not text:
        return []
    if text.startswith("#") and text[1:].isascii() and text[1:].isdecimal():
        token = int(text[1:])
        if token < source.embedding.n_tokens:
            return [token]
        last = source.embedding.n_tokens - 1
        raise PromptError(f"There is no token {text[:20]}; expected #0 to #{last}.")
    if source.tokenizer is None:
        return []
    always = {int(token) for token in source.tokenizer.encode("")}  # what every text begins with
    found = [int(token) for token in source.tokenizer.encode(text) if int(token) not in always]
    folded = text.casefold().replace(" ", "▁")
    vocabulary = pieces(source.tokenizer, str(source.embedding.file))
    holding = [token for token, piece in enumerate(vocabulary) if folded in piece.casefold()]
    holding.sort(key=lambda token: len(vocabulary[token]))
    return list(dict.fromkeys(found + holding))[:limit]
