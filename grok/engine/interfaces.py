"""What the engine asks of whatever holds the weights.

Axes: B sequences, T tokens, D d_model, N token rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from grok.architectures.architecture import Cache
from grok.architectures.moe import Choice
from grok.engine.compiled import Head
from grok.engine.progress import Watch
from grok.interventions.hooks import EditsBySite

# Logits [.., N, V] that are held at once while something is computed of them.
HELD_LOGITS = 2**26


@dataclass(frozen=True)
class Part:
    """One batch on its way through a layer.

    Attributes:
        h: residual stream [B, T, D] float32.
        start: position of the first of the T tokens.
        key_is_token: [B, S], False at padding.
        cache: this layer's keys and values [B, S, …]; given away.
        edits: of this layer.
        keep: sites to give back.
        real: [B, T], False at rows that only fill up a batch; None: all count.
    """

    h: Any
    start: np.int32
    key_is_token: np.ndarray
    cache: Cache
    edits: EditsBySite = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    real: np.ndarray | None = None


class Done(NamedTuple):
    """A `Part` after the layer: stream, router's choice (None without experts), filled cache,
    values of kept sites."""

    h: Any
    choice: Choice | None
    cache: Cache
    kept: Mapping[str, Any]


class Walk(Protocol):
    """One pass over the layers, in order."""

    def layer(self, layer: int, parts: Iterable[Part]) -> Iterator[Done]:
        """The parts after the layer, in order; a part may be asked for only once the one before
        it has been given back.

        Raises:
            GrokError: weights that cannot be read.
        """
        ...

    @property
    def bytes_read(self) -> int:
        """From disk, in this walk."""
        ...


@dataclass(frozen=True)
class LayerFigures:
    """What one layer of the last pass took.

    Attributes:
        layer: its number.
        bytes_read: from disk, of this layer; what was read ahead of experts that nobody chose is
            not in it.
        read_seconds: the reader spent on them.
        compute_seconds: spent computing.
        wait_seconds: spent waiting for the reader.
        seconds: in all.
        hits: experts that were needed and in memory already.
        misses: experts that were needed and read.
    """

    layer: int
    bytes_read: int
    read_seconds: float
    compute_seconds: float
    wait_seconds: float
    seconds: float
    hits: int = 0
    misses: int = 0


class Layers(Protocol):
    """The decoder layers.

    Attributes:
        memory_budget: bytes that the process may take; None where there is no such bound.
        last_pass: figures of each layer of the last pass; None where nothing is streamed.
    """

    @property
    def memory_budget(self) -> int | None: ...

    @property
    def last_pass(self) -> Sequence[LayerFigures] | None: ...

    def max_rows(self, kept_bytes: int = 0) -> int | None:
        """The most token rows of a pass without logits; None: as many as there are.

        Args:
            kept_bytes: that each row keeps until the pass is over.
        """
        ...

    def walk(
        self,
        n_rows: int,
        first: int = 0,
        watch: Watch | None = None,
        *,
        logits: bool = True,
        n_padded: int | None = None,
        kept_bytes: int = 0,
    ) -> AbstractContextManager[Walk]:
        """A pass from layer `first` on.

        Args:
            n_rows: the most token rows that will be taken through a layer.
            watch: told how far the walk is, also within a layer.
            logits: whether those of all rows follow.
            n_padded: rows with those that only fill up, which take memory too; `n_rows` when None.
            kept_bytes: of what is kept until the pass is over, keys and values among it.

        Raises:
            DeviceError: too little memory for so many rows.
        """
        ...


class EmbedUnembed(Protocol):
    """Embedding and unembedding."""

    def embed(self, tokens: np.ndarray, start: np.int32, edits: EditsBySite) -> jax.Array:
        """Residual stream before the first layer [B, T, D] of tokens [B, T]."""
        ...

    def head(
        self, h: Any, candidates: int, start: np.int32, edits: EditsBySite, keep: tuple[str, ...]
    ) -> tuple[Head, Mapping[str, Any]]:
        """Logits and likeliest next tokens of the stream after the last layer, kept sites."""
        ...

    def of_logits(self, function: Callable[..., Any], h: Any, *args: Any) -> Any:
        """function(logits [N, V], *args) of every stream of h [B, N, D], stacked.

        Args:
            function: pure and hashable; compiled once for each value.
        """
        ...
