"""Where a model's weights are while it runs, behind two small interfaces.

`Layers` computes decoder layers and `EmbedUnembed` what stands before the first and after the last.
Here both hold everything on the devices. `grok.streaming` has others that read layer by layer.
`grok.engine.engine` walks over them and knows nothing of where weights are.

Axes: B sequences, T tokens of this call, S cached positions, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grok.architectures.architecture import Architecture, Dispatch
from grok.engine.compiled import (
    AS_WRITTEN,
    Head,
    edited_embedding,
    embed_pass,
    head_pass,
    layer_pass,
    logits_of,
)
from grok.engine.interfaces import HELD_LOGITS, Done, LayerFigures, Part, Walk
from grok.engine.progress import Watch
from grok.engine.sharding import dispatch_over
from grok.interventions.hooks import EditsBySite


def through_layer(
    architecture: Architecture, params: Any, part: Part, dispatch: Dispatch, mesh: Mesh
) -> Done:
    """A batch after one layer, all of whose weights are on the devices.

    Args:
        architecture: of the layer.
        params: of the layer, by leaf.
        part: the batch; its cache is given away.
        dispatch: computes the experts.
        mesh: of the devices.
    """
    return Done(
        *layer_pass(
            architecture,
            params,
            part.h,
            part.start,
            part.key_is_token,
            part.cache,
            dispatch,
            mesh,
            part.edits,
            part.keep,
        )
    )


class Resident:
    """All weights on the devices; both `Layers` and `EmbedUnembed`.

    Attributes:
        params: of each layer, by leaf.
        outer: embedding, final norm and head, by leaf.
    """

    bytes_read = 0
    memory_budget: int | None = None
    last_pass: Sequence[LayerFigures] | None = None

    def __init__(
        self,
        architecture: Architecture,
        params: Sequence[Mapping[str, Any]],
        outer: Mapping[str, Any],
        dtype: str,
        mesh: Mesh,
    ) -> None:
        self.params, self.outer = list(params), dict(outer)
        self._architecture, self._dtype, self._mesh = architecture, dtype, mesh
        self._dispatch = dispatch_over(mesh)

    def max_rows(self, kept_bytes: int = 0) -> int | None:
        """As `Layers.max_rows`: as many as there are."""
        return None

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
            yield through_layer(
                self._architecture.at(layer), self.params[layer], part, self._dispatch, self._mesh
            )

    def embed(self, tokens: np.ndarray, start: np.int32, edits: EditsBySite) -> jax.Array:
        h = embed_pass(self._architecture, self.outer, tokens, self._dtype)
        n_experts = self._architecture.config.n_experts
        return edited_embedding(h, start, edits, n_experts) if edits else h

    def head(
        self, h: Any, candidates: int, start: np.int32, edits: EditsBySite, keep: tuple[str, ...]
    ) -> tuple[Head, Mapping[str, Any]]:
        return head_pass(
            self._architecture,
            self.outer,
            h,
            candidates,
            self._dtype,
            self._mesh,
            start,
            edits,
            keep,
        )

    def of_logits(self, function: Callable[..., Any], h: Any, *args: Any) -> Any:
        return _of_logits(self._architecture, self.outer, h, args, function, self._dtype)


@partial(
    jax.jit,
    static_argnames=("architecture", "function", "dtype"),
    compiler_options=AS_WRITTEN,
)
def _of_logits(
    architecture: Architecture,
    params: Any,
    h: jax.Array,
    args: tuple[Any, ...],
    function: Callable[..., Any],
    dtype: str,
) -> Any:
    def one(stream: jax.Array) -> Any:
        logits = logits_of(architecture, params, stream[None], jnp.dtype(dtype))[0]
        return function(logits, *args)

    together = max(1, HELD_LOGITS // (h.shape[1] * architecture.config.vocab_size))
    return jax.lax.map(one, h, batch_size=min(together, h.shape[0]))
