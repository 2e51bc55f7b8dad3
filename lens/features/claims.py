"""Whose claims about layers a model bore out, beside claiming nothing and claims dealt out.

Axes: S dictionaries, L layers below a target.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from scipy.stats import binomtest

from lens.stats.p_values import monte_carlo_p

DRAWS = 2000
LEAST_LAYERS = 4  # of fewer there are too few orders to deal claims out in


class Claims(Protocol):
    """What dictionaries claim of layers, and what they did; the runner's `LayerClaims` has it."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def claims(self) -> np.ndarray: ...
    @property
    def measured(self) -> np.ndarray: ...
    @property
    def disputed(self) -> np.ndarray: ...
    def nearest(self, free: bool = True) -> np.ndarray: ...
    def missed(self, free: bool = True) -> np.ndarray: ...


class Settled(NamedTuple):
    """Claims about layers, as the free model settles them.

    Attributes:
        layers, disputed: how many there are.
        nearer: disputed layers in which each dictionary's claim was nearest [S].
        even: p-value of the most of them, were each dictionary as likely to be nearest; not a
            number where nothing is disputed.
        missed: what claims are off by, over what was measured [S]; 1 is claiming nothing.
        dealt: the same in the middle of deals of a dictionary's claims to other layers [S].
        p: share of deals that miss as little [S]; neither is a number for too few layers.
    """

    layers: int
    disputed: int
    nearer: np.ndarray
    even: float
    missed: np.ndarray
    dealt: np.ndarray
    p: np.ndarray


def settled(found: Claims, seed: int = 0) -> Settled:
    """How claims about layers fared in the free model.

    Reading it: a dictionary whose `missed` is 1 or more says less of its layers than claiming that
    none acts; one whose p is not small does not know which layer acts, only how much layers do.

    Args:
        found: the claims.
        seed: of the deals.
    """
    n_dictionaries, n = found.claims.shape
    own = found.measured[1]
    disputed = found.disputed
    nearer = np.bincount(found.nearest()[disputed], minlength=n_dictionaries)
    d = int(disputed.sum())
    even = float("nan")
    if d and n_dictionaries > 1:
        test = binomtest(int(nearer.max()), d, 1 / n_dictionaries, alternative="greater")
        even = min(1.0, n_dictionaries * float(test.pvalue))  # whoever it is
    dealt, p = np.full((2, n_dictionaries), np.nan)
    missed = found.missed()
    if n >= LEAST_LAYERS:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)
        size = max(float(np.linalg.norm(own)), 1e-30)
        for s in range(n_dictionaries):
            off = np.linalg.norm(found.claims[s][orders] - own, axis=1) / size
            dealt[s], p[s] = np.median(off), monte_carlo_p(-missed[s], -off)
    return Settled(n, d, nearer, even, missed, dealt, p)
