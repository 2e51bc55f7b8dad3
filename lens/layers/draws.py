"""Numbers of draws of the nulls of layers: as many as asked for, fewer where each takes long.

Pages, the report and the comparison of two models take their numbers of draws from here, so
that the same question gets the same answer everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lens.routers.matching import SUBSET_EXPERTS
from lens.routers.router_set import RouterSet

DRAWS = 1000
SEED = 0
LEAST = 19
# Corners of all draws that are kept at once, in numbers: 32 MiB.
KEPT_CORNERS = 2**22
# Products of weights of all pairs of columns that are kept at once, in numbers.
KEPT_PRODUCTS = 2**25


@dataclass(frozen=True)
class LayerDraws:
    """Draws of the nulls of one router set.

    Attributes:
        n_layers, d_model, n_experts: the size of the set.
        asked: draws that were asked for, an upper limit of each.
    """

    n_layers: int
    d_model: int
    n_experts: int
    asked: int = DRAWS

    @classmethod
    def of(cls, routers: RouterSet, asked: int = DRAWS) -> LayerDraws:
        """The draws of a router set."""
        return cls(routers.n_layers, routers.d_model, routers.n_experts, asked)

    def all_pairs(self) -> int:
        """Draws of the rotation null of all pairs, which pools where experts are matched."""
        return rotation_draws("cka", 1, self.n_experts, self.asked)

    def one_pair(self, metric: str) -> int:
        """Draws of the rotation null of a single pair."""
        return rotation_draws(metric, 1, self.n_experts, self.asked)

    def adjacent_pairs(self, metric: str) -> int:
        """Draws of the rotation null of all adjacent pairs."""
        return rotation_draws(metric, self.n_layers - 1, self.n_experts, self.asked)

    def unrelated_routers(self, metric: str) -> int:
        """Pairs of random routers that give the chance level of a metric."""
        return rotation_draws(metric, 1, 2 * self.n_experts, self.asked)

    def resampled_pair(self) -> int:
        """Bootstrap draws of the interval of one pair."""
        return bootstrap_draws(1, self.d_model, self.n_experts, self.asked)

    def resampled_adjacent_pairs(self) -> int:
        """Bootstrap draws of the intervals of all adjacent pairs."""
        n_pairs = max(self.n_layers - 1, 1)
        return bootstrap_draws(n_pairs, self.d_model, self.n_experts, self.asked)


def rotation_draws(metric: str, n_pairs: int, n_experts: int, asked: int = DRAWS) -> int:
    """Draws of a rotation null, fewer than asked for where many experts make each one long.

    Corners of E × E numbers are kept for all draws at once: 32 MiB of them, 256 draws
    for 128 experts. Matching more than 10 experts takes one assignment a pair and
    draw besides; all together stay near 10 seconds. A draw of many experts is a sum of
    many terms, so that fewer tell as much.
    """
    most = max(KEPT_CORNERS // n_experts**2, LEAST)
    if metric == "matched_cosine" and n_experts > SUBSET_EXPERTS:
        most = min(most, max(affordable_matchings(n_experts) // max(n_pairs, 1), LEAST))
    return min(most, asked)


def affordable_matchings(n_experts: int) -> int:
    """Assignments of random cosines that take about 10 seconds: 0.5 ms each of 128 experts."""
    return int(10 / (1.1e-8 * n_experts**2.2))


def bootstrap_draws(n_pairs: int, d_model: int, n_experts: int, asked: int = DRAWS) -> int:
    """Draws of a bootstrap, fewer (at least 49) where all would take more than 4 seconds."""
    work = n_pairs * d_model * (2.0 * n_experts) ** 2
    at_once = d_model * n_experts * (2 * n_experts + 1) <= KEPT_PRODUCTS
    assignments = n_pairs * 0.4e-6 * n_experts**2 if n_experts > SUBSET_EXPERTS else 0.0
    seconds = work / (1e11 if at_once else 1e10) + assignments  # of a draw
    return int(np.clip(4 / seconds, 49, asked))
