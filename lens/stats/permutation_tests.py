"""One value for each layer beside what shuffled or simulated data give.

Axes: layer (L), draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from lens.stats.p_values import benjamini_hochberg, monte_carlo_p

DRAWS = 999
SEED = 0
MAX_DRAWS = 100_000
Tail = Literal["upper", "lower", "both"]


@dataclass(frozen=True, eq=False)
class AgainstChance:
    """A value of each layer and its null.

    Attributes:
        value: what was measured.
        mean: of the null's draws.
        low, high: the limits that hold one more draw in 95 of 100 cases.
        p: share of the draws at least as extreme, the value counted as one of them.
        q: p-values of all layers after Benjamini and Hochberg.
        draws, seed: of the null.
        method: what was drawn, for people.
    """

    value: Float[np.ndarray, " layer"]
    mean: Float[np.ndarray, " layer"]
    low: Float[np.ndarray, " layer"]
    high: Float[np.ndarray, " layer"]
    p: Float[np.ndarray, " layer"]
    q: Float[np.ndarray, " layer"]
    draws: int
    seed: int
    method: str

    @property
    def excess(self) -> Float[np.ndarray, " layer"]:
        """The value less what chance gives on average."""
        return self.value - self.mean

    def found(self, level: float = 0.05) -> int:
        """Layers whose q is at most `level`."""
        return int(np.count_nonzero(np.nan_to_num(self.q, nan=1) <= level))


def against_chance(
    value: Float[np.ndarray, " layer"],
    drawn: Float[np.ndarray, "draw layer"],
    *,
    seed: int,
    method: str,
    tail: Tail = "upper",
) -> AgainstChance:
    """The summary of a null for each layer.

    Args:
        value: what was measured.
        drawn: the same in every draw of the null.
        seed: of the draws.
        method: what was drawn, for people.
        tail: which values count as extreme: large ones, small ones, or both (twice
            the smaller share).
    """
    value = np.asarray(value, dtype=np.float64)
    upper, lower = monte_carlo_p(value, drawn), monte_carlo_p(-value, -drawn)
    p = {"upper": upper, "lower": lower, "both": np.minimum(2 * np.minimum(upper, lower), 1)}[tail]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0, method="weibull")
    return AgainstChance(
        value=value,
        mean=drawn.mean(axis=0),
        low=low,
        high=high,
        p=p,
        q=benjamini_hochberg(p),
        draws=len(drawn),
        seed=seed,
        method=method,
    )


def shuffled_orders(
    rng: np.random.Generator, n_tokens: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """A random order of the tokens; with `groups`, each token stays within its group.

    Args:
        rng: source of the order.
        n_tokens: how many.
        groups: for each token the number of its group; equal numbers stand together.
    """
    if groups is None:
        return rng.permutation(n_tokens)
    return np.lexsort((rng.random(n_tokens), groups))
