"""Where a model's weights are while it runs, behind two small interfaces.

`Layers` computes decoder layers and `Ends` what stands before the first and after the last.
Here both hold everything on the devices. `grok.streaming` has others that read layer by layer.
`grok.engine` walks over them and knows nothing of where weights are.

Axes: B sequences, T tokens of this call, S cached positions, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grok import forward
from grok.checkpoint import EMBEDDING
from grok.config import GrokConfig
from grok.modules import Cache
from grok.moe import Choice
from grok.passes import (
    AS_WRITTEN,
    Head,
    edited_embedding,
    embed_pass,
    head_pass,
    layer_pass,
)
from grok.progress import Watch
from grok.sharding import dispatch_over
from grok.visits import EditsBySite

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
    """A `Part` after the layer: stream, router's choice, filled cache, values of kept sites."""

    h: Any
    choice: Choice
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


class Layers(Protocol):
    """The decoder layers."""

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


class Ends(Protocol):
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


class Resident:
    """All weights on the devices; both `Layers` and `Ends`.

    Attributes:
        params: of each layer, by path within it.
        io: embedding and final norm.
    """

    bytes_read = 0

    def __init__(
        self,
        config: GrokConfig,
        params: Sequence[Mapping[str, Any]],
        io: Mapping[str, Any],
        dtype: str,
        mesh: Mesh,
    ) -> None:
        self.params, self.io = list(params), dict(io)
        self._config, self._dtype, self._mesh = config, dtype, mesh
        self._dispatch = dispatch_over(mesh)

    @contextmanager
    def walk(
        self,
        n_rows: int,
        first: int = 0,
        watch: Watch | None = None,
        *,
        logits: bool = True,
        n_padded: int | None = None,
        kept_bytes: int = 0,
    ) -> Iterator[Walk]:
        yield self

    def layer(self, layer: int, parts: Iterable[Part]) -> Iterator[Done]:
        for part in parts:
            yield Done(
                *layer_pass(
                    self._config,
                    self.params[layer],
                    part.h,
                    part.start,
                    part.key_is_token,
                    part.cache,
                    self._dispatch,
                    self._mesh,
                    part.edits,
                    part.keep,
                )
            )

    def embed(self, tokens: np.ndarray, start: np.int32, edits: EditsBySite) -> jax.Array:
        h = embed_pass(self._config, {EMBEDDING: self.io[EMBEDDING]}, tokens, self._dtype)
        return edited_embedding(h, start, edits, self._config.n_experts) if edits else h

    def head(
        self, h: Any, candidates: int, start: np.int32, edits: EditsBySite, keep: tuple[str, ...]
    ) -> tuple[Head, Mapping[str, Any]]:
        return head_pass(
            self._config, self.io, h, candidates, self._dtype, self._mesh, start, edits, keep
        )

    def of_logits(self, function: Callable[..., Any], h: Any, *args: Any) -> Any:
        return _of_logits(self._config, self.io, h, args, function, self._dtype)


@partial(jax.jit, static_argnames=("config", "function", "dtype"), compiler_options=AS_WRITTEN)
def _of_logits(
    config: GrokConfig,
    params: Any,
    h: jax.Array,
    args: tuple[Any, ...],
    function: Callable[..., Any],
    dtype: str,
) -> Any:
    def one(stream: jax.Array) -> Any:
        logits = forward.unembed(config, params, stream[None], jnp.dtype(dtype))[0]
        return function(logits, *args)

    together = max(1, HELD_LOGITS // (h.shape[1] * config.vocab_size))
    return jax.lax.map(one, h, batch_size=min(together, h.shape[0]))
