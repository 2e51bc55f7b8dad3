"""Weights that stay in memory between passes: those used last, as many as there is room for."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import jax

Key = tuple[int, int]  # layer, expert; -1 for what every token of the layer passes through


class ExpertCache:
    """Weights of single experts by layer and number.

    Args:
        max_bytes: of all together.

    Attributes:
        hits, misses: experts that were asked for and there, or not there, so far.
        n_bytes: held now.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.n_bytes = max_bytes, 0
        self.hits = self.misses = 0
        self._held: OrderedDict[Key, tuple[Any, int]] = OrderedDict()  # longest unused first

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    def get(self, key: Key) -> Any | None:
        """An expert's weights, which count as used now; None where they are not held."""
        found = self._held.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._held.move_to_end(key)
        return found[0]

    def put(self, key: Key, weights: Any, *, evict: bool = True) -> None:
        """Hold an expert's weights where there is room.

        Args:
            key: layer and expert.
            weights: a pytree of arrays.
            evict: make room by letting go of what was not used for longest. A pass over all
                experts leaves this off: each would push out one that the next pass needs first.
        """
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
        room = self.max_bytes - self.n_bytes
        if size > self.max_bytes or (size > room and not evict):
            return
        self._let_go(self.max_bytes - size)
        self._held[key] = weights, size
        self.n_bytes += size

    def resize(self, max_bytes: int) -> None:
        """Hold at most so much from now on: what was not used for longest goes at once."""
        self.max_bytes = max_bytes
        self._let_go(max_bytes)

    def _let_go(self, most: int) -> None:
        """Let go of what was not used for longest until at most so many bytes are held."""
        while self._held and self.n_bytes > most:
            _, (_, freed) = self._held.popitem(last=False)
            self.n_bytes -= freed
