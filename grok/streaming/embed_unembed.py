"""Embedding and unembedding of a table that stays on disk (Grok-1's has 3.2 GB).

A pass reads the rows of its tokens at first, and the whole table, a block of rows at a time, for
the logits. Blocks go through the compiled model's own unembedding, as a vocabulary of that size.

Axes: B sequences, T tokens, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.architecture import Architecture
from grok.checkpoints.tensor_spec import Checkpoint, read_parameter
from grok.checkpoints.token_embedding import table_of
from grok.engine.compiled import (
    AS_WRITTEN,
    NONE_SEEN,
    Head,
    bucket,
    edited_embedding,
    embed_pass,
)
from grok.engine.largest import largest
from grok.errors import CheckpointError
from grok.interventions.hooks import NO_SITE_EDITS, CompiledHook, EditsBySite, earlier_references
from grok.interventions.sites import LOGITS, NORM
from grok.streaming.host_memory import BLOCKS_OF_TABLE, HELD_LOGITS, ROWS_OF_TABLE
from grok.streaming.read_ahead import Buffers, Piece, ReadAhead


class StreamedEmbedUnembed:
    """`grok.engine.interfaces.EmbedUnembed` of a checkpoint on disk.

    Raises:
        CheckpointError: the table or the final norm is missing or unusable.
    """

    def __init__(self, checkpoint: Checkpoint, architecture: Architecture, dtype: str) -> None:
        self._architecture, self._dtype = architecture, dtype
        embedding, *others = architecture.outer_specs()
        self._embedding_leaf = embedding.leaf
        self.table = table_of(checkpoint, embedding)
        self._head = self.table  # where they are tied
        self._outer: dict[str, Any] = {}
        rows = (architecture.config.vocab_size,)
        self._by_row = [spec.leaf for spec in others if spec.shape == rows]
        for spec in others:
            if spec.leaf == architecture.head_leaf:
                self._head = table_of(checkpoint, spec)
            else:
                self._outer[spec.leaf] = jax.device_put(read_parameter(checkpoint, spec))

    def embed(self, tokens: np.ndarray, start: np.int32, edits: EditsBySite) -> jax.Array:
        used, own = np.unique(tokens, return_inverse=True)
        table = np.zeros((bucket(len(used)), self.table.d_model), self.table.dtype)
        table[: len(used)] = self.table.rows(used)
        few = self._architecture.with_vocabulary(len(table))
        own = own.reshape(tokens.shape).astype(np.int32)
        h = embed_pass(few, {self._embedding_leaf: table}, own, self._dtype)
        n_experts = few.config.n_experts
        return edited_embedding(h, start, edits, n_experts) if edits else h

    def head(
        self, h: Any, candidates: int, start: np.int32, edits: EditsBySite, keep: tuple[str, ...]
    ) -> tuple[Head, Mapping[str, Any]]:
        before = {NORM: edits[NORM]} if NORM in edits else NO_SITE_EDITS
        after = {LOGITS: edits[LOGITS]} if LOGITS in edits else NO_SITE_EDITS
        needed = earlier_references(edits, (LOGITS,))
        looked_at = tuple(s for s in (NORM,) if s in keep or s in needed)
        normed, kept = _norm_pass(
            self._architecture, self._outer, h, self._dtype, start, before, looked_at
        )
        logits = self._logits(normed)
        t = logits.shape[1]
        step = t if after else max(1, HELD_LOGITS // (logits.shape[0] * logits.shape[2]))
        found: list[tuple[Any, Any]] = []
        for first in range(0, t, step):
            own = logits[:, first : first + step]
            seen = {site: kept[site] for site in needed}
            at = np.int32(start + first)
            changed, *best = _candidates_pass(
                own, candidates, self._architecture.config.n_experts, at, after, seen
            )
            if after:
                logits[:, first : first + step] = np.asarray(changed)
            found.append(jax.device_get(tuple(best)))
        ids, probs = (np.concatenate(one, axis=1) for one in zip(*found, strict=True))
        values = {site: value for site, value in kept.items() if site in keep}
        if LOGITS in keep:
            values[LOGITS] = logits
        return Head(logits, ids, probs), values  # type: ignore[arg-type]

    def of_logits(self, function: Callable[..., Any], h: Any, *args: Any) -> Any:
        b, n, _ = h.shape
        together = max(1, HELD_LOGITS // (n * self._head.n_tokens))
        results = []
        for first in range(0, b, together):
            own = h[first : first + together]
            normed, _ = _norm_pass(
                self._architecture, self._outer, own, self._dtype, np.int32(0), NO_SITE_EDITS, ()
            )
            logits = self._logits(normed)
            results += [jax.device_get(_call(function, one, args)) for one in logits]
        return jax.tree.map(lambda *ones: np.stack(ones), *results)

    def _logits(self, normed: jax.Array) -> np.ndarray:
        """[B, T, V] in the activation dtype, of the normed stream [B, T, D].

        Raises:
            CheckpointError: the table cannot be read or has values that are not finite.
        """
        b, t, _ = normed.shape
        v = self._head.n_tokens
        out = np.empty((b, t, v), jnp.dtype(self._dtype))
        first = 0
        for block in self._blocks():
            few = self._architecture.with_vocabulary(len(block))
            beside = {leaf: self._outer[leaf][first : first + len(block)] for leaf in self._by_row}
            # Computed before the next block takes the place of this one.
            own = np.asarray(_block_pass(few, normed, block, beside))
            if not np.isfinite(own[0, 0].astype(np.float32)).all():
                self._check_finite(block, first)
            out[..., first : first + len(block)] = own
            first += len(block)
        return out

    def _check_finite(self, block: np.ndarray, first: int) -> None:
        bad = np.flatnonzero(~np.isfinite(block.astype(np.float32)).all(axis=1))
        if bad.size:
            raise CheckpointError(
                f"{self._head.file}: the embedding of token {first + int(bad[0])} is not finite. "
                "The file is damaged; get it again."
            )

    def _blocks(self) -> Iterator[np.ndarray]:
        """The table [rows, D] in blocks, the next ones read while one is used.

        Through the page cache: a table is small beside the layers, and is read for every token.
        """
        head, rows = self._head, min(ROWS_OF_TABLE, self._head.n_tokens)
        if head.fortran:
            yield from head.blocks(rows)
            return
        row_bytes = head.d_model * head.dtype.itemsize
        pieces = [
            Piece(head.tensor, head.offset + first * row_bytes, n * row_bytes, n)
            for first in range(0, self._head.n_tokens, rows)
            for n in [min(rows, self._head.n_tokens - first)]
        ]
        buffers = Buffers(BLOCKS_OF_TABLE, rows * row_bytes)
        with ReadAhead(buffers, direct=False) as reader:
            reader.ask(pieces)
            for _ in pieces:
                filled = reader.take()
                flat = filled.bytes.view(head.dtype)
                yield flat.reshape(filled.piece.key, head.d_model)
                reader.give(filled)


@partial(jax.jit, static_argnames=("architecture", "dtype", "keep"), compiler_options=AS_WRITTEN)
def _norm_pass(
    architecture: Architecture,
    params: Any,
    h: jax.Array,
    dtype: str,
    start: jax.Array,
    edits: EditsBySite,
    keep: tuple[str, ...],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    hook = CompiledHook(edits, keep, start, architecture.config.n_experts)
    return architecture.final_norm(params, h, jnp.dtype(dtype), hook=hook), hook.kept


@partial(jax.jit, static_argnames=("architecture",), compiler_options=AS_WRITTEN)
def _block_pass(
    architecture: Architecture,
    normed: jax.Array,
    table: jax.Array,
    beside: Mapping[str, jax.Array],
) -> jax.Array:
    """Logits of some rows of the table, with what stands beside them, such as biases."""
    return architecture.head({architecture.head_leaf: table, **beside}, normed)


@partial(jax.jit, static_argnames=("n_candidates", "n_experts"), compiler_options=AS_WRITTEN)
def _candidates_pass(
    logits: jax.Array,
    n_candidates: int,
    n_experts: int,
    start: jax.Array,
    edits: EditsBySite,
    seen: Mapping[str, jax.Array] = NONE_SEEN,
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """Edited logits (None without edits), likeliest tokens and their probabilities [B, T, C]."""
    logits = CompiledHook(edits, (), start, n_experts, seen)(LOGITS, logits)
    probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    top, ids = largest(probs, max(1, n_candidates))
    return (logits if edits else None), ids.astype(jnp.int32), top


@partial(jax.jit, static_argnames=("function",), compiler_options=AS_WRITTEN)
def _call(function: Callable[..., Any], logits: jax.Array, args: tuple[Any, ...]) -> Any:
    return function(logits, *args)
