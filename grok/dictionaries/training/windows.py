"""Windows of text, and the order in which their tokens are learned from.

The order is a function of the seed and the step alone. An epoch takes the windows in a permutation
of its own; the tokens that count, window after window and epoch after epoch, are cut into blocks
of many batches, and a block is mixed by a permutation of its own. So every token comes once an
epoch, a run that was killed goes on exactly where it was, and a block's values can be computed
together.

Axes: N windows, T tokens of a window. No JAX here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grok.errors import GrokError


@dataclass(frozen=True)
class Windows:
    """Token ids of consecutive pieces of some texts.

    Attributes:
        tokens: [T] of each window; the last of a text may be shorter.
        labels: index into `names` of each window [N].
        names: of the texts.
    """

    tokens: Sequence[np.ndarray]
    labels: np.ndarray
    names: tuple[str, ...]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each window [N]."""
        return np.array([len(one) for one in self.tokens])

    def sha256(self) -> str:
        """A hash over the tokens of all windows."""
        digest = hashlib.sha256()
        for one in self.tokens:
            digest.update(f"{len(one)}|".encode())
            digest.update(np.ascontiguousarray(one, "<i4").tobytes())
        return digest.hexdigest()


def cut(streams: Mapping[str, np.ndarray], context: int) -> Windows:
    """Streams of token ids, each cut into windows of so many tokens.

    Raises:
        GrokError: there is no token.
    """
    tokens: list[np.ndarray] = []
    labels: list[int] = []
    for label, stream in enumerate(streams.values()):
        own = np.asarray(stream, np.int32)
        pieces = [own[i : i + context] for i in range(0, len(own), context)]
        tokens += pieces
        labels += [label] * len(pieces)
    if not tokens:
        raise GrokError("The text has no tokens.")
    return Windows(tokens, np.array(labels, np.int32), tuple(streams))


def evenly(total: int, n: int) -> np.ndarray:
    """At most n of the numbers from 0 to total − 1, rising and spread over all of them."""
    return np.unique(np.linspace(0, total - 1, min(n, total)).astype(int))


@dataclass(frozen=True)
class Places:
    """Where the tokens of a block stand: window and position of each, [tokens]."""

    window: np.ndarray
    position: np.ndarray


class Order:
    """The order of tokens.

    Args:
        lengths: tokens of each window [N].
        skipped: positions at the start of each window that are left out.
        block: tokens of a block.
        seed: of the permutations.
    """

    def __init__(self, lengths: np.ndarray, skipped: int, block: int, seed: int) -> None:
        self._counted = np.maximum(np.asarray(lengths) - skipped, 0)
        self._skipped, self.block, self._seed = skipped, block, seed
        self.per_epoch = int(self._counted.sum())
        if self.per_epoch == 0:
            raise GrokError("No token of the text counts; give more text or longer windows.")

    def places(self, block: int) -> Places:
        """The tokens of a block, in the order in which windows come."""
        first, last = block * self.block, (block + 1) * self.block
        windows, positions = [], []
        for epoch in range(first // self.per_epoch, (last - 1) // self.per_epoch + 1):
            order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._counted))
            ends = np.cumsum(self._counted[order])
            starts = ends - self._counted[order]
            low = max(first - epoch * self.per_epoch, 0)
            high = min(last - epoch * self.per_epoch, self.per_epoch)
            inside = np.flatnonzero((ends > low) & (starts < high))
            for i in inside:
                rows = np.arange(max(low, starts[i]), min(high, ends[i])) - starts[i]
                windows.append(np.full(len(rows), order[i]))
                positions.append(rows + self._skipped)
        return Places(np.concatenate(windows), np.concatenate(positions))

    def mixed(self, block: int) -> np.ndarray:
        """The permutation of a block's tokens [block]."""
        return np.random.default_rng([self._seed, 2, block]).permutation(self.block)
