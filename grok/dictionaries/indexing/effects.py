"""What features do to routers and to next tokens, by the directions that they write.

Effects are direct: what the direction itself adds to a logit, with the scale of the norm before it
held and everything between left as it is.

Axes: G groups, F features, W sites that a group writes, D width, L routed layers, E experts,
N directions, V vocabulary, K next tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grok.dictionaries.indexing.contexts import places_within
from grok.dictionaries.kinds.design import Design
from grok.interventions.sites import LAYER_SITES, HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

ADDED = ("attn.normed", "moe.normed")  # what is added to the stream
STREAM = ("resid_pre", "resid_mid", "resid_post")  # the stream itself
LARGE = 100.0  # root mean square of what a norm is given, so that its epsilon does not count
HELD = 2**23  # logits that are held at once


def directions_at(
    design: Design, decoders: Sequence[np.ndarray], group: int, layer: int
) -> np.ndarray | None:
    """What features of a group write into the stream that a layer's router reads, [F, D].

    What is added to the stream adds up; of decoders that stand for the stream itself the last one
    counts. None where nothing is written before.

    Args:
        design: of the dictionary.
        decoders: [F, W, D] of each group.
        group: its number.
        layer: of the router; the number of layers for the stream after the last.
    """
    here = (layer, LAYER_SITES.index("resid_mid"))
    points = [design.targets[i] for i in design.groups[group].writes]
    before = [i for i, point in enumerate(points) if _reaches(point, here)]
    added = [i for i in before if points[i].site in ADDED]
    if added:
        return np.asarray(decoders[group][:, added].sum(1))
    if before:
        last = max(before, key=lambda i: points[i].order)
        return np.asarray(decoders[group][:, last])
    return None


def _reaches(point: HookPoint, here: tuple[int, int]) -> bool:
    if point.site in STREAM:
        return point.order <= here
    return point.site in ADDED and point.order < here


def pushes(
    design: Design,
    decoders: Sequence[np.ndarray],
    group: int,
    layers: Sequence[int],
    columns: np.ndarray,
) -> np.ndarray:
    """Logits that a feature of strength 1 adds to each expert, D·W̃ [F, L, E].

    To be divided by the root mean square of what the router's norm reads. Not a number where a
    feature writes nothing before the router.

    Args:
        design: of the dictionary.
        decoders: [F, W, D] of each group.
        group: its number.
        layers: of the routers [L].
        columns: of `grok.dictionaries.training.routers.router_maps` [L, D, E].
    """
    out = np.full((design.features, len(layers), columns.shape[-1]), np.nan, np.float32)
    for i, layer in enumerate(layers):
        own = directions_at(design, decoders, group, layer)
        if own is not None:
            out[:, i] = own.astype(np.float64) @ columns[i]
    return out


class NextTokens(NamedTuple):
    """Next tokens that directions raise most and lower most.

    ids, values: [N, 2, K], raised first; values are logits less their mean over the vocabulary,
    for a strength of 1, to be divided by the root mean square of what the last norm reads.
    column: (token, direction, value) of the directions that raise each token most and lower it
    most, arrays of one length.
    """

    ids: np.ndarray
    values: np.ndarray
    column: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Effects:
    """Of logits [N, V] and sizes [N]: the ends of every row and of every column."""

    of_row: int
    of_column: int

    def __call__(self, logits: jax.Array, sizes: jax.Array) -> tuple[Any, Any, Any, Any]:
        own = logits.astype(jnp.float32) * sizes[:, None]
        own = own - own.mean(axis=1, keepdims=True)
        both = jnp.stack([own, -own])  # [2, N, V]
        values, ids = jax.lax.top_k(both, self.of_row)
        high, rows = jax.lax.top_k(jnp.swapaxes(both, 1, 2), self.of_column)
        return ids, values, rows, high


def next_tokens(model: Model, directions: np.ndarray, of_row: int, of_column: int) -> NextTokens:
    """Direct effects of directions of the last stream on next tokens.

    Args:
        model: whose last norm and unembedding are used.
        directions: [N, D].
        of_row: K.
        of_column: directions that are told of each token, up and down.
    """
    n, vocab = len(directions), model.config.vocab_size
    block = max(1, min(n, HELD // vocab))
    of_row, of_column = min(of_row, vocab), min(of_column, block)
    size = np.sqrt(np.square(directions, dtype=np.float64).mean(1))
    unit = np.where(size[:, None] > 0, directions / np.maximum(size[:, None], 1e-30), 0.0)
    ids = np.zeros((n, 2, of_row), np.int32)
    values = np.zeros((n, 2, of_row), np.float32)
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for first in range(0, n, block):
        here = min(block, n - first)
        h = np.zeros((1, block, directions.shape[1]), np.float32)
        h[0, :here] = LARGE * unit[first : first + here]
        sizes = np.zeros(block, np.float32)
        sizes[:here] = size[first : first + here]
        found = model.engine.embed_unembed.of_logits(_Effects(of_row, of_column), h, sizes)
        own_ids, own, rows, high = (np.asarray(one[0]) for one in found)
        signs = np.array([1, -1], np.float32)
        ids[first : first + here] = own_ids[:, :here].transpose(1, 0, 2)
        values[first : first + here] = own[:, :here].transpose(1, 0, 2) * signs[:, None]
        for sign, some, which in zip(signs, high, rows, strict=True):
            token = np.repeat(np.arange(vocab), of_column)
            fine = (which.ravel() < here) & (some.ravel() > 0)
            columns.append((token[fine], first + which.ravel()[fine], sign * some.ravel()[fine]))
    return NextTokens(ids, values, _ends(columns, of_column))


def _ends(
    columns: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest and the smallest values of each token, of those of all blocks."""
    token, which, value = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    order = np.lexsort((which, -np.abs(value), value < 0, token))
    token, which, value = token[order], which[order], value[order]
    few = places_within(token * 2 + (value < 0)) < most
    return token[few], which[few], value[few]
