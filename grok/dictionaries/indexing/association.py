"""Features and experts: do they go together, beyond what the token and its text tell?

Tokens of one id in one text are a stratum. If a feature's activity were dealt out at random among
the tokens of each stratum, the number of its active tokens that choose an expert would be a sum of
independent hypergeometric numbers, whose first three moments are known. So the null holds fixed
how often the feature is active at each token, how often each token goes to each expert, and
whatever both owe to the text.

Axes: F features, B tokens, C cells (layer, expert), S strata. No JAX here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.stats import false_discovery_control, pearson3

SMALLEST = 1e-12
LEAST_VARIANCE = 2.0  # of a count that a p-value is read off


class Strata(NamedTuple):
    """Strata of tokens, and how they are routed.

    of: stratum of each token [B]; sizes: [S]; shares: of each stratum's tokens that choose a
    cell [S, C]; chosen: whether a token did [B, C].
    """

    of: np.ndarray
    sizes: np.ndarray
    shares: np.ndarray
    chosen: np.ndarray


class Association(NamedTuple):
    """Of each feature and cell [F, C].

    share: of the feature's active tokens that choose the cell; expected: the same by chance
    within strata; p: two-sided, not a number where the count could hardly have been another.
    """

    share: np.ndarray
    expected: np.ndarray
    p: np.ndarray


def strata_of(token: np.ndarray, label: np.ndarray, chosen: np.ndarray) -> Strata:
    """Strata by token and label.

    Args:
        token, label: of each token [B].
        chosen: cells that it chose, 0 or 1 [B, C].
    """
    keys = token.astype(np.int64) * (int(label.max(initial=0)) + 1) + label
    _, of = np.unique(keys, return_inverse=True)
    sizes = np.bincount(of)
    members = sparse.csr_matrix((np.ones(len(of), np.float32), (of, np.arange(len(of)))))
    shares = (members @ chosen.astype(np.float32)) / sizes[:, None]
    return Strata(of, sizes, shares.astype(np.float64), chosen)


def associated(active: sparse.csc_matrix, strata: Strata) -> Association:
    """Association of features with cells.

    Args:
        active: whether a feature is active at a token, 0 or 1 [B, F].
        strata: of the same tokens.
    """
    ones = sparse.csr_matrix(active.T, dtype=np.float64)  # [F, B]
    taken = np.asarray(ones @ strata.chosen.astype(np.float64))
    b = len(strata.of)
    members = sparse.csr_matrix((np.ones(b), (np.arange(b), strata.of)), (b, len(strata.sizes)))
    m = sparse.csr_matrix(ones @ members)  # active tokens of each stratum [F, S]
    p = strata.shares
    n = strata.sizes[m.indices].astype(np.float64)
    second, third = m.copy(), m.copy()
    second.data = m.data * (n - m.data) / np.maximum(n - 1, 1)
    third.data = second.data * (n - 2 * m.data) / np.maximum(n - 2, 1)
    mean = m @ p
    variance = second @ (p * (1 - p))
    skew = third @ (p * (1 - p) * (1 - 2 * p))
    total = np.maximum(np.asarray(m.sum(1)), 1)
    return Association(taken / total, mean / total, _two_sided(taken, mean, variance, skew))


def _two_sided(
    taken: np.ndarray, mean: np.ndarray, variance: np.ndarray, third: np.ndarray
) -> np.ndarray:
    """Twice the smaller tail of a count, read off a distribution with the same moments.

    Half of the probability of the count itself belongs to each tail, so that p-values are
    uniform on average, not merely never too small.
    """
    asked = variance >= LEAST_VARIANCE
    sd = np.sqrt(np.where(asked, variance, 1.0))
    skewness = np.where(asked, third / sd**3, 0.0)
    z = (taken - mean) / sd
    p = np.full(taken.shape, np.nan)
    upper = pearson3.sf(z[asked], skewness[asked])
    p[asked] = np.clip(2 * np.minimum(upper, 1 - upper), SMALLEST, 1)
    return p


def false_discoveries(p: np.ndarray) -> np.ndarray:
    """Benjamini–Hochberg's q of p-values; what is not a number stays so and is no test."""
    q = np.full(p.shape, np.nan)
    asked = np.isfinite(p)
    if asked.any():
        q[asked] = false_discovery_control(p[asked], method="bh")
    return q
