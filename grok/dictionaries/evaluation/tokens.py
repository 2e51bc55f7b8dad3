"""Tokens of text with their values, in batches.

Axes: B tokens, S sites read, M sites written, D width, K experts a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grok.dictionaries.kinds.design import Design
from grok.dictionaries.training.losses import Batch
from grok.dictionaries.training.source import EXPERTS, Computed, Values
from grok.dictionaries.training.windows import Places, Windows, evenly
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

NONE_BEFORE = -1


@dataclass(frozen=True)
class Part:
    """Some tokens and their values.

    Attributes:
        batch: x [S, B, D], y [M, B, D], and experts where features belong to some.
        tokens, previous: ids [B]; `NONE_BEFORE` at the start of a window.
        domain: of each token, an index into the names of the texts [B].
        window: of each token [B].
        values: of other points [B, ...].
    """

    batch: Batch
    tokens: np.ndarray
    previous: np.ndarray
    domain: np.ndarray
    window: np.ndarray
    values: Mapping[HookPoint, np.ndarray]


def spread(windows: Windows, most: int, skipped: int) -> Places:
    """At most so many tokens, of windows spread over all of them.

    Args:
        windows: of the text.
        most: tokens in all.
        skipped: positions at the start of each window that are left out.
    """
    n = max(1, min(len(windows.tokens), most // max(1, int(windows.lengths.max()))))
    some = evenly(len(windows.tokens), n)
    counted = [np.arange(min(skipped, windows.lengths[w]), windows.lengths[w]) for w in some]
    window = np.repeat(some, [len(own) for own in counted])
    return Places(window, np.concatenate(counted))


def ids(windows: Windows, places: Places) -> tuple[np.ndarray, np.ndarray]:
    """The tokens at places and those before them [B]; see `Part`."""
    pairs = list(zip(places.window.tolist(), places.position.tolist(), strict=True))
    tokens = np.array([windows.tokens[w][p] for w, p in pairs], np.int64)
    before = [windows.tokens[w][p - 1] if p else NONE_BEFORE for w, p in pairs]
    return tokens, np.array(before, np.int64)


def parts(
    model: Model,
    design: Design,
    windows: Windows,
    places: Places,
    size: int,
    others: Sequence[HookPoint] = (),
) -> Iterator[Part]:
    """The values at places, `size` tokens at a time.

    Args:
        model: gives them.
        design: whose sites are needed.
        windows: of the text.
        places: of the tokens.
        size: tokens of a part.
        others: points whose values are needed too.
    """
    values = Computed(model, windows)
    for first in range(0, len(places.window), size):
        own = Places(places.window[first : first + size], places.position[first : first + size])
        found = values_at(values, points_of(design, others), own)
        tokens, previous = ids(windows, own)
        yield Part(
            batch_of(design, found),
            tokens,
            previous,
            windows.labels[own.window],
            own.window,
            {point: found[point] for point in others},
        )


def points_of(design: Design, others: Sequence[HookPoint] = ()) -> tuple[HookPoint, ...]:
    """The points that a dictionary needs, and others, each once."""
    choices = [HookPoint(layer, EXPERTS) for layer in design.layers] if design.n_experts else []
    return tuple(dict.fromkeys((*design.sources, *design.targets, *choices, *others)))


def values_at(
    values: Values, points: Sequence[HookPoint], places: Places
) -> dict[HookPoint, np.ndarray]:
    """Values [B, ...] of points at places."""
    order = np.argsort(places.window, kind="stable")
    ordered = places.window[order]
    out: dict[HookPoint, np.ndarray] = {}
    for window, own in values.of(list(dict.fromkeys(places.window.tolist())), points):
        first, last = np.searchsorted(ordered, [window, window + 1])
        rows = order[first:last]
        for point in points:
            value = np.asarray(own[point])
            if point not in out:
                out[point] = np.empty((len(order), *value.shape[1:]), value.dtype)
            out[point][rows] = value[places.position[rows]]
    return out


def batch_of(design: Design, found: Mapping[HookPoint, np.ndarray]) -> Batch:
    """What a dictionary reads and should write, of values [B, ...] by point."""
    x = np.stack([found[point] for point in design.sources])
    same = design.sources == design.targets
    y = x if same else np.stack([found[point] for point in design.targets])
    chosen = None
    if design.n_experts:
        chosen = np.stack([found[HookPoint(layer, EXPERTS)] for layer in design.layers])
    return Batch(x, y, chosen)  # type: ignore[arg-type]
