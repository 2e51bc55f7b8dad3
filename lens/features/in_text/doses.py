"""What a run does when a feature is turned up or taken out, beside random directions.

Axes: dose, direction (random ones of the length of what the feature writes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.stats.p_values import monte_carlo_p

LEVEL = 0.025  # of p, one-sided: 0.05 over both questions, taken out and turned up


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

    def _sums(self, out: bool) -> Float[np.ndarray, " subject"]:
        """Routes changed by the feature and each direction, mean over doses.

        Each dose counts against its own mean, so that large ones don't decide alone.
        """
        which = (self.added < 0) == out
        every = np.vstack([self.own, self.random])[:, which].astype(np.float64) + 1
        return (every / every.mean(0)).mean(1)

    def ratio(self, *, out: bool) -> float:
        """Routes that the feature changes over those of a random direction, mean over doses.

        Args:
            out: of what is taken out; else of all doses that turn it up.
        """
        sums = self._sums(out)
        return float(sums[0] / sums[1:].mean())

    def p(self, *, out: bool) -> float:
        """One-sided: were it one more random direction, how often would it change as many routes?

        With n directions it is 1 / (n + 1) at least.

        Args:
            out: of what is taken out; else of all doses that turn it up, in one test.
        """
        sums = self._sums(out)
        return float(monte_carlo_p(sums[0], sums[1:]))

    def more(self, *, out: bool) -> bool:
        """Whether it changes more routes than random directions do: p at most `LEVEL`."""
        return self.p(out=out) <= LEVEL
