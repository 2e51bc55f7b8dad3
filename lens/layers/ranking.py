"""Comparison of a ranking in the canonical view with that in the raw view.

Axes: item (a pair of layers, or an expert).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.words import fixed

TOP = 10


@dataclass(frozen=True)
class RankingChange:
    """Agreement of two rankings of the same items.

    Attributes:
        top: how many of the largest were compared.
        kept: how many of them are among the largest in both.
        same_first: whether the largest of all is the same item.
        tau: Kendall's τ of all items: 1 the same order, 0 unrelated orders.
    """

    top: int
    kept: int
    same_first: bool
    tau: float

    @property
    def changes(self) -> bool:
        """True where the top of the ranking depends on the view."""
        return self.kept < self.top or not self.same_first

    def sentence(self, what: str) -> str:
        """The change in words; `what` names the items, as in "pairs of layers"."""
        first = "" if self.same_first else "; the first place goes to another"
        return (
            f"The ranking depends on the view: {self.kept} of the {self.top} highest {what} are "
            f"the same in the canonical and in the raw view{first} (Kendall's τ of all "
            f"{fixed(self.tau, 2)})."
        )


def ranking_change(
    canonical: Float[np.ndarray, "*item"], raw: Float[np.ndarray, "*item"], top: int = TOP
) -> RankingChange:
    """Agreement of the highest values of both views.

    Items whose value is not a number in either view are left out.
    """
    from scipy.stats import kendalltau

    first, second = np.ravel(canonical), np.ravel(raw)
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    top = min(top, len(first))
    if top == 0:
        return RankingChange(0, 0, True, float("nan"))
    order, other = (np.argsort(-values, kind="stable")[:top] for values in (first, second))
    varied = len(first) > 1 and np.ptp(first) > 0 and np.ptp(second) > 0
    tau = float(kendalltau(first, second).statistic) if varied else float("nan")
    return RankingChange(top, len(set(order) & set(other)), bool(order[0] == other[0]), tau)
