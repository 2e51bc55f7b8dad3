"""Contexts that are kept do not depend on the order in which they come."""

from __future__ import annotations

import numpy as np

from grok.dictionaries.indexing import contexts
from grok.dictionaries.indexing.contexts import Contexts, Reservoir, Strongest

ROWS = 5


def some(rng, n=4000):
    windows = np.sort(rng.integers(0, 60, n)).astype(np.int32)
    places = np.unique(np.stack([windows, rng.integers(0, 30, n)], 1), axis=0)
    n = len(places)
    return Contexts(
        rng.integers(0, ROWS, n).astype(np.int32),
        places[:, 0].astype(np.int32),
        places[:, 1].astype(np.int32),
        np.exp(rng.integers(-20, 20, n) / 8).astype(np.float32),  # with ties
    )


def by_windows(found, groups):
    return [found.at(np.isin(found.window, group)) for group in groups]


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_kept_contexts_are_the_same_in_any_order_and_from_shards(monkeypatch):
    monkeypatch.setattr(contexts, "WAITING", 50)
    rng = np.random.default_rng(0)
    found = some(rng)
    for make in (lambda: Strongest(ROWS, 7), lambda: Reservoir(ROWS, 3, 1)):
        at_once = make()
        at_once.add(found)
        pieces, shards = make(), [make(), make()]
        parts = by_windows(found, np.array_split(rng.permutation(60), 11))
        for i, part in enumerate(parts):
            pieces.add(part)
            shards[i % 2].add(part)
        together = make()
        for shard in shards:
            together.add(shard.finished())
        same(at_once.finished(), pieces.finished())
        same(at_once.finished(), together.finished())


def test_a_reservoir_chooses_evenly():
    rng = np.random.default_rng(1)
    n = 2000
    counts = np.zeros(n)
    for seed in range(60):
        found = Contexts(
            np.zeros(n, np.int32), np.arange(n, dtype=np.int32), np.full(n, seed, np.int32),
            np.ones(n, np.float32),
        )  # fmt: skip
        kept = Reservoir(1, 100, seed)
        kept.add(found.at(rng.permutation(n)))
        counts[kept.finished().window] += 1
    assert counts.sum() == 6000
    thirds = counts.reshape(4, -1).sum(1)
    assert abs(thirds - 1500).max() < 5 * np.sqrt(1500)
    assert counts.max() < 15
