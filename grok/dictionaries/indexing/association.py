"""Features and experts: do they go together, beyond what the token and its text tell?

Tokens of one id in one text are a stratum. If a feature's activity were dealt out at random among
the tokens of each stratum, the number of its active tokens that choose an expert would be a sum of
independent hypergeometric numbers, whose first three moments are known. So the null holds fixed
how often the feature is active at each token, how often each token goes to each expert, and
whatever both owe to the kind of text.

Neighbouring tokens are no such deal: a feature and an expert that each stay for a while meet or
miss each other for a while. So tokens of one window of text are a cluster, and the count's variance
is the larger of that of the deal and the cluster-robust one, the sum over windows of the square of
what each window adds to the count beyond chance (Liang and Zeger, 1986). A count has as large an
effect as its windows agree on: one window alone is no evidence.

Axes: F features, B tokens, C cells (layer, expert), S strata, W windows, P pairs of a stratum and a
window. No JAX here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.stats import false_discovery_control, pearson3

SMALLEST = 1e-12
LEAST_VARIANCE = 2.0  # of a count that a p-value is read off
TOGETHER = 32  # features whose windows are summed at once


class Strata(NamedTuple):
    """Strata of tokens, and how they are routed.

    of: stratum of each token [B]; window: of each token [B]; sizes: [S]; shares: of each stratum's
    tokens that choose a cell [S, C]; chosen: whether a token did [B, C].
    """

    of: np.ndarray
    window: np.ndarray
    sizes: np.ndarray
    shares: np.ndarray
    chosen: np.ndarray


class Association(NamedTuple):
    """Of each feature and cell [F, C].

    share: of the feature's active tokens that choose the cell; expected: the same by chance
    within strata; p: two-sided, not a number where the count could hardly have been another;
    design: how many times as large as if tokens were independent the count's variance is taken to
    be, at least 1; not a number where p is not.
    """

    share: np.ndarray
    expected: np.ndarray
    p: np.ndarray
    design: np.ndarray


def strata_of(
    token: np.ndarray, label: np.ndarray, window: np.ndarray, chosen: np.ndarray
) -> Strata:
    """Strata by token and label.

    Args:
        token, label, window: of each token [B]; windows are taken to be independent.
        chosen: cells that it chose, 0 or 1 [B, C].
    """
    keys = token.astype(np.int64) * (int(label.max(initial=0)) + 1) + label
    _, of = np.unique(keys, return_inverse=True)
    sizes = np.bincount(of)
    members = sparse.csr_matrix((np.ones(len(of), np.float32), (of, np.arange(len(of)))))
    shares = (members @ chosen.astype(np.float32)) / sizes[:, None]
    return Strata(of, window, sizes, shares.astype(np.float64), chosen)


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
    asked = variance >= LEAST_VARIANCE
    design = np.where(asked, _between(ones, m, strata) / np.where(asked, variance, 1.0), np.nan)
    design = np.maximum(design, 1.0)
    p = _two_sided(taken - mean, variance, skew, design)
    return Association(taken / total, mean / total, p, design)


def _between(ones: sparse.csr_matrix, m: sparse.csr_matrix, strata: Strata) -> np.ndarray:
    """The cluster-robust variance of counts [F, C].

    A token's part of a count is (active − active share of its stratum) · (chosen − chosen share),
    times √(n / (n − 1)) of a stratum of n, for the shares that are those of the same tokens.
    Where tokens are dealt out, its sum of squares over windows is on average the deal's variance.

    Args:
        ones: whether features are active at tokens [F, B].
        m: active tokens of each stratum [F, S].
        strata: of the tokens.
    """
    b, n = len(strata.of), strata.sizes.astype(np.float64)
    _, window = np.unique(strata.window, return_inverse=True)
    w = int(window.max(initial=0)) + 1
    scale = np.sqrt(n / np.maximum(n - 1, 1))[strata.of, None]
    beyond = ((strata.chosen - strata.shares[strata.of]) * scale).astype(np.float32)  # [B, C]
    keys, pair = np.unique(strata.of.astype(np.int64) * w + window, return_inverse=True)
    every = np.arange(len(keys))
    of_pairs = sparse.csr_matrix((np.ones(b, np.float32), (pair, np.arange(b)))) @ beyond
    values = np.concatenate([beyond, of_pairs])  # [B + P, C]
    spread = sparse.csr_matrix(
        (np.ones(len(keys), np.float32), (keys // w, every)), (len(n), len(keys))
    )
    shares = sparse.csr_matrix(m, dtype=np.float32, copy=True)
    shares.data /= n[m.indices]
    out = np.zeros((ones.shape[0], values.shape[1]))
    for first in range(0, len(out), TOGETHER):
        own = slice(first, min(first + TOGETHER, len(out)))
        active, mean = ones[own].tocoo(), (shares[own] @ spread).tocoo()
        cluster = np.concatenate(
            [active.row.astype(np.int64) * w + window[active.col],
             mean.row.astype(np.int64) * w + keys[mean.col] % w]
        )  # fmt: skip
        clusters, at = np.unique(cluster, return_inverse=True)  # of a feature and a window
        terms = np.concatenate([active.data, -mean.data]).astype(np.float32)
        columns = np.concatenate([active.col, b + mean.col])
        shape = (len(clusters), len(values))
        added = sparse.csr_matrix((terms, (at, columns)), shape) @ values
        np.add.at(out, first + clusters // w, np.square(added, dtype=np.float64))
    return out


def _two_sided(
    off: np.ndarray, variance: np.ndarray, third: np.ndarray, design: np.ndarray
) -> np.ndarray:
    """Twice the smaller tail of a count, read off a distribution with the same moments.

    Half of the probability of the count itself belongs to each tail, so that p-values are
    uniform on average, not merely never too small. A variance `design` times as large is that of
    tokens in blocks of so many, whose skewness is √design times as large.
    """
    asked = np.isfinite(design)
    sd = np.sqrt(np.where(asked, variance, 1.0))
    wider = np.sqrt(np.where(asked, design, 1.0))
    skewness = np.where(asked, third / sd**3 * wider, 0.0)
    z = off / (sd * wider)
    p = np.full(off.shape, np.nan)
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
