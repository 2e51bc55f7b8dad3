"""What a run does when a feature is turned up or taken out, beside random directions.

Axes: dose, direction (random ones of the length of what the feature writes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.stats.p_values import monte_carlo_p

LEVEL = 0.05  # of p


@dataclass(frozen=True, eq=False)
class Doses:
    """Effects of doses of a feature, and of as much of its controls at the same tokens.

    Attributes:
        names: of the doses: "taken out", or what is added.
        added: to its strength; below 0 where it is taken out.
        routes: pairs of token and layer whose experts could change.
        own, random: routes that changed.
        gates, gates_random: mean gate mass that moved, over tokens and layers.
        kl, kl_random: KL(plain ‖ changed) of the next token, mean over tokens, in nats.
    """

    names: tuple[str, ...]
    added: Float[np.ndarray, " dose"]
    routes: int
    own: Int[np.ndarray, " dose"]
    random: Int[np.ndarray, "direction dose"]
    gates: Float[np.ndarray, " dose"]
    gates_random: Float[np.ndarray, "direction dose"]
    kl: Float[np.ndarray, " dose"]
    kl_random: Float[np.ndarray, "direction dose"]

    def _sums(self) -> Float[np.ndarray, " subject"]:
        """Routes changed by the feature and each direction, mean over doses.

        Each dose counts against its own mean, so that large ones don't decide alone.
        """
        every = np.vstack([self.own, self.random]).astype(np.float64) + 1
        return (every / every.mean(0)).mean(1)

    @property
    def ratio(self) -> float:
        """Routes that the feature changes over those of a random direction, mean over doses."""
        sums = self._sums()
        return float(sums[0] / sums[1:].mean())

    @property
    def p(self) -> float:
        """Two-sided: were the feature one more random direction, how often as far from the rest?

        One test of all doses. With n directions it is 2 / (n + 1) at least.
        """
        sums = self._sums()
        more, fewer = (float(monte_carlo_p(s * sums[0], s * sums[1:])) for s in (1, -1))
        return min(1.0, 2 * min(more, fewer))

    @property
    def verdict(self) -> str:
        """How many routes it changes: "more than", "fewer than" or "about as many as" they do."""
        if self.p > LEVEL:
            return "about as many routes as"
        return "more routes than" if self.ratio > 1 else "fewer routes than"
