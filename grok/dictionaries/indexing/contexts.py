"""Contexts that are kept of each feature: the strongest ones, and some at random of each bin.

What is kept is a function of the set of tokens alone, not of their order: the strongest are told
apart by window and position where they tie, and those at random are the ones whose hash is
smallest. So what parts and shards keep can be put together.

Axes: R features of all groups, N contexts. No JAX here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 64
LOWEST, HIGHEST = 1e-4, 1e3
# Contexts that may wait before those that are not among the smallest hashes are let go.
WAITING = 1_000_000


def bin_of(values: np.ndarray) -> np.ndarray:
    """Bins of strengths, spaced evenly in their logarithm; what lies outside is in the last."""
    steps = BINS * np.log(np.maximum(values, LOWEST) / LOWEST) / np.log(HIGHEST / LOWEST)
    return np.minimum(steps.astype(np.int64), BINS - 1)


def bin_edges() -> np.ndarray:
    """Strengths between bins [BINS + 1]."""
    return np.geomspace(LOWEST, HIGHEST, BINS + 1)


def hashed(*parts: np.ndarray | int) -> np.ndarray:
    """Numbers that look random and depend on the parts alone, uint64."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(0x9E3779B97F4A7C15, np.uint64)
        for part in parts:
            mixed = mixed + np.asarray(part).astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return np.asarray(mixed)


class Contexts(NamedTuple):
    """Places where features were active [N]: row of the feature, window, position, strength."""

    row: np.ndarray
    window: np.ndarray
    position: np.ndarray
    value: np.ndarray

    def at(self, which: np.ndarray) -> Contexts:
        """Some of them."""
        return Contexts(*(one[which] for one in self))


def joined(*some: Contexts) -> Contexts:
    """All of several."""
    return Contexts(*(np.concatenate(parts) for parts in zip(*some, strict=True)))


def no_contexts() -> Contexts:
    """None."""
    whole = np.zeros(0, np.int32)
    return Contexts(whole, whole, whole, np.zeros(0, np.float32))


def places_within(keys: np.ndarray) -> np.ndarray:
    """The place of each of some sorted keys among those that equal it, from 0."""
    if not len(keys):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return np.arange(len(keys)) - np.repeat(starts, np.diff([*starts, len(keys)]))


class Strongest:
    """The strongest contexts of each feature, at most one a window.

    Args:
        rows: R.
        most: contexts of a feature.
    """

    def __init__(self, rows: int, most: int) -> None:
        self.most = most
        self.kept = no_contexts()
        self._least = np.full(rows, -np.inf, np.float32)  # of the features that have `most`

    def add(self, found: Contexts) -> None:
        """Adds contexts; a window comes whole, in one call."""
        found = found.at(found.value >= self._least[found.row])
        order = np.lexsort((found.position, -found.value, found.window, found.row))
        found = found.at(order)
        windows = found.row.astype(np.int64) << 32 | found.window
        found = found.at(places_within(windows) == 0)
        touched = np.zeros(len(self._least), bool)
        touched[found.row] = True
        own = touched[self.kept.row]
        both = joined(self.kept.at(own), found)
        both = both.at(np.lexsort((both.position, both.window, -both.value, both.row)))
        place = places_within(both.row)
        both, place = both.at(place < self.most), place[place < self.most]
        last = place == self.most - 1
        self._least[both.row[last]] = both.value[last]
        self.kept = joined(self.kept.at(~own), both)

    def finished(self) -> Contexts:
        """What is kept, by feature, the strongest first."""
        one = self.kept
        return one.at(np.lexsort((one.position, one.window, -one.value, one.row)))


class Reservoir:
    """Contexts of each feature and bin of strength at random: those with the smallest hash.

    Args:
        rows: R.
        most: contexts of a feature and bin.
        seed: of the hashes.
    """

    def __init__(self, rows: int, most: int, seed: int) -> None:
        self.most, self._seed = most, seed
        self._largest = np.full(rows * BINS, np.iinfo(np.uint64).max, np.uint64)
        self._kept: list[Contexts] = []
        self._settled = 0

    def add(self, found: Contexts) -> None:
        """Adds contexts."""
        found = found.at(self._hash(found) <= self._largest[self._cell(found)])
        self._kept.append(found)
        if sum(len(one.row) for one in self._kept) > self._settled + WAITING:
            self.finished()

    def finished(self) -> Contexts:
        """What is kept, by feature and bin, the smallest hash first."""
        both = joined(no_contexts(), *self._kept)
        cell, key = self._cell(both), self._hash(both)
        order = np.lexsort((both.position, both.window, key, cell))
        both, cell, key = both.at(order), cell[order], key[order]
        place = places_within(cell)
        few = place < self.most
        last = place == self.most - 1
        self._largest[cell[last]] = key[last]
        self._kept, self._settled = [both.at(few)], int(few.sum())
        return self._kept[0]

    def _cell(self, found: Contexts) -> np.ndarray:
        return found.row.astype(np.int64) * BINS + bin_of(found.value)

    def _hash(self, found: Contexts) -> np.ndarray:
        return hashed(self._seed, found.row, found.window, found.position)
