"""Chance counts of a word at an expert: hypergeometric, alone and added up.

Axes: group (G: tokens that are shuffled among themselves, such as those of a stretch of a prompt),
layer (L), expert (E), word (V).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

# Occurrences of a word up to which sums over groups are gone through exactly.
EXACT = 64
# Probabilities that are held at once.
HELD = 2**20
SMALLEST = 1e-300


def at_least(
    count: Int[np.ndarray, "layer expert word"],
    size: Int[np.ndarray, "group layer expert"],
    occurrences: Int[np.ndarray, "group word"],
    totals: Int[np.ndarray, " group"],
) -> Float[np.ndarray, "layer expert word"]:
    """P(X ≥ count), the tokens of each group shuffled over its places.

    In a group of T tokens of which M chose the expert, n occurrences of the word fall into
    the M places hypergeometrically; X is the sum over the groups, which are independent.
    With one group, and for words of at most 64 occurrences, the distribution is exact. For
    others it is read off a Pearson type III distribution with the sum's mean, spread and
    skewness, half a count below.
    """
    n_groups = len(totals)
    logs = log_factorials(int(totals.max()))
    p = np.ones((count[..., 0].size, count.shape[-1]))
    flat, places = count.reshape(p.shape), size.reshape(n_groups, -1)
    n_word = occurrences.sum(axis=0)
    if n_groups == 1:
        for n in np.unique(n_word):
            own = np.flatnonzero(n_word == n)
            block = max(1, HELD // (int(n) + 1))
            for start in range(0, len(p), block):
                part = slice(start, start + block)
                pmf = _pmf(places[0, part], int(n), int(totals[0]), logs)
                p[part, own] = _tail(pmf, flat[part][:, own])
        return p.reshape(count.shape)
    few = n_word <= EXACT
    for word in np.flatnonzero(few):
        p[:, word] = _exact(places, occurrences[:, word], totals, logs, flat[:, word])
    if not few.all():
        p[:, ~few] = _by_moments(flat[:, ~few], places, occurrences[:, ~few], totals)
    return p.reshape(count.shape)


def expected_counts(
    size: Int[np.ndarray, "group layer expert"],
    occurrences: Int[np.ndarray, "group word"],
    totals: Int[np.ndarray, " group"],
) -> Float[np.ndarray, "layer expert word"]:
    """Mean of the counts of `at_least`: Σ n M / T over the groups."""
    return np.tensordot(size / totals[:, None, None], occurrences, axes=(0, 0))


def log_factorials(most: int) -> Float[np.ndarray, " number"]:
    """ln 0!, ln 1!, …, ln most!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def _pmf(
    places: Int[np.ndarray, " cell"], n: int, total: int, logs: np.ndarray
) -> Float[np.ndarray, "cell count"]:
    """P(X = 0), …, P(X = n) where X of n occurrences fall into the places of each cell."""
    x, m = np.arange(n + 1), places[:, None]
    possible = (x <= m) & (n - x <= total - m)
    inside, rest = np.where(possible, m - x, 0), np.where(possible, total - m - (n - x), 0)
    log_pmf = (
        logs[m] - logs[x] - logs[inside]
        + logs[total - m] - logs[n - x] - logs[rest]
        - (logs[total] - logs[n] - logs[total - n])
    )  # fmt: skip
    return np.exp(np.where(possible, log_pmf, -np.inf))


def _tail(
    pmf: Float[np.ndarray, "cell count"], taken: Int[np.ndarray, "cell word"]
) -> Float[np.ndarray, "cell word"]:
    tail = np.cumsum(pmf[:, ::-1], axis=1)[:, ::-1]
    return np.clip(np.take_along_axis(tail, taken, axis=1), SMALLEST, 1)


def _exact(
    places: Int[np.ndarray, "group cell"],
    occurrences: Int[np.ndarray, " group"],
    totals: Int[np.ndarray, " group"],
    logs: np.ndarray,
    taken: Int[np.ndarray, " cell"],
) -> Float[np.ndarray, " cell"]:
    """The tail of one word's sum over groups, by convolution."""
    pmf = np.ones((places.shape[1], 1))
    for group in np.flatnonzero(occurrences):
        n = int(occurrences[group])
        own = _pmf(places[group], n, int(totals[group]), logs)
        joined = np.zeros((len(pmf), pmf.shape[1] + n))
        for x in range(n + 1):
            joined[:, x : x + pmf.shape[1]] += own[:, x, None] * pmf
        pmf = joined
    return _tail(pmf, taken[:, None])[:, 0]


def _by_moments(
    taken: Int[np.ndarray, "cell word"],
    places: Int[np.ndarray, "group cell"],
    occurrences: Int[np.ndarray, "group word"],
    totals: Int[np.ndarray, " group"],
) -> Float[np.ndarray, "cell word"]:
    """The tail read off a distribution with the sum's first three moments."""
    from scipy.stats import pearson3

    total = totals[:, None].astype(np.float64)
    m, n = places.astype(np.float64), occurrences.astype(np.float64)
    both, other_m, other_n = 1 / total, m * (total - m), n * (total - n)
    mean = (m * both).T @ n
    # Groups of one or two tokens: a denominator of 0 stands for a numerator of 0.
    variance = (other_m / (total**2 * np.maximum(total - 1, 1))).T @ other_n
    third = (
        other_m * (total - 2 * m) / (total**3 * np.maximum(total - 1, 1) * np.maximum(total - 2, 1))
    ).T @ (other_n * (total - 2 * n))
    sd = np.sqrt(variance)
    moves = sd > 1e-9
    z = np.divide(taken - 0.5 - mean, sd, out=np.zeros_like(sd), where=moves)
    skewness = np.divide(third, sd**3, out=np.zeros_like(sd), where=moves)
    return np.where(moves, np.clip(pearson3.sf(z, skewness), SMALLEST, 1), 1.0)
