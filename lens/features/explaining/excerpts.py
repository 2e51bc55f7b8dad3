"""Contexts as arrays, which explanations are searched in and judged on.

Axes: excerpt (N), token (T, of an excerpt; padded at its end).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.features.card import Context
from lens.features.store import FeatureStore
from lens.features.tables import damage_in_words


@dataclass(frozen=True, eq=False)
class Excerpts:
    """Contexts of one feature.

    Attributes:
        ids: tokens; −1 beyond an excerpt's end.
        values: strength of the feature at them.
        mark: which token is marked.
        label: number of the text.
        position: of the first token in its window.
        window: number of the window.
    """

    ids: Int[np.ndarray, "excerpt token"]
    values: Float[np.ndarray, "excerpt token"]
    mark: Int[np.ndarray, " excerpt"]
    label: Int[np.ndarray, " excerpt"]
    position: Int[np.ndarray, " excerpt"]
    window: Int[np.ndarray, " excerpt"]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def inside(self) -> Bool[np.ndarray, "excerpt token"]:
        """Where there is a token."""
        return self.ids >= 0

    @property
    def active(self) -> Bool[np.ndarray, "excerpt token"]:
        """Where the feature is active."""
        return self.values > 0

    @property
    def before(self) -> Int[np.ndarray, "excerpt token"]:
        """The token before each; −1 before the first of an excerpt, which is not known."""
        first = np.full((len(self.ids), 1), -1, self.ids.dtype)
        return np.concatenate([first, self.ids[:, :-1]], axis=1)

    def at(self, which: np.ndarray) -> Excerpts:
        """Some of them."""
        return Excerpts(
            self.ids[which],
            self.values[which],
            self.mark[which],
            self.label[which],
            self.position[which],
            self.window[which],
        )

    def halves(self) -> tuple[Excerpts, Excerpts]:
        """Two parts that share no window: to search in, and to judge on."""
        first = (self.window * 2654435761 >> 7) % 2 == 0
        return self.at(first), self.at(~first)


def excerpts_of(contexts: Sequence[Context], labels: Sequence[str]) -> Excerpts:
    """Contexts of a card as arrays."""
    width = max((len(one.tokens) for one in contexts), default=1)
    ids = np.full((len(contexts), width), -1, np.int64)
    values = np.zeros((len(contexts), width))
    for i, one in enumerate(contexts):
        ids[i, : len(one.tokens)] = one.tokens
        values[i, : len(one.tokens)] = one.values

    def whole(numbers: list[int]) -> np.ndarray:
        return np.array(numbers, np.int64)

    return Excerpts(
        ids,
        values,
        whole([one.mark for one in contexts]),
        whole([list(labels).index(one.label) for one in contexts]),
        whole([one.position - one.mark for one in contexts]),
        whole([one.window for one in contexts]),
    )


def all_excerpts(store: FeatureStore) -> Iterator[tuple[int, int, Excerpts]]:
    """Every feature that has contexts to be judged on, with them: group, feature, excerpts.

    Raises:
        LensError: a database without them, or with contexts outside their windows.
    """
    if "judged" not in store.tables.names:
        raise LensError(
            f"{store.folder}: made without contexts to judge by. Make it again with --set "
            "judged=40 of `python -m grok.dictionaries.index`."
        )
    with damage_in_words(store.folder):
        yield from _all(store)


def _all(store: FeatureStore) -> Iterator[tuple[int, int, Excerpts]]:
    text = store.tables.ask(
        'SELECT "window", label, tokens FROM read_parquet($windows) ORDER BY "window"'
    )
    lengths = np.array([len(one) for one in text["tokens"]])
    tokens, starts = np.concatenate(text["tokens"]), np.cumsum(lengths) - lengths
    for group in range(store.summary().groups):
        found = store.tables.ask(
            'SELECT feature, "window", position, start, "values" FROM read_parquet($judged) '
            'WHERE "group" = $group ORDER BY feature, kind, rank',
            group=group,
        )
        if not len(found["feature"]):
            continue
        place = np.searchsorted(text["window"], found["window"])
        place = np.minimum(place, len(lengths) - 1)
        width = np.array([len(one) for one in found["values"]])
        start = found["start"].astype(np.int64)
        mark = found["position"].astype(np.int64) - start
        fits = (text["window"][place] == found["window"]) & (start >= 0) & (mark >= 0)
        fits &= (start + width <= lengths[place]) & (mark < width)
        if not fits.all():
            raise LensError(f"{store.folder}: a context of group {group} lies outside its window.")
        turn = np.arange(width.max())
        inside = turn < width[:, None]
        at = (starts[place] + start)[:, None] + np.minimum(turn, width[:, None] - 1)
        values = np.zeros(inside.shape, np.float32)
        values[inside] = np.concatenate(found["values"])
        whole = Excerpts(
            np.where(inside, tokens[at], -1).astype(np.int64),
            values,
            mark,
            text["label"][place].astype(np.int64),
            start,
            found["window"].astype(np.int64),
        )
        bounds = np.flatnonzero(np.diff(found["feature"], prepend=-1))
        for first, stop in zip(bounds, [*bounds[1:], len(mark)], strict=True):
            yield group, int(found["feature"][first]), whole.at(np.arange(first, stop))
