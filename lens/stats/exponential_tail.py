"""p-values that go on below one in so many draws, by an exponential tail.

Axes: draw, test.

Draws count how rare a value is until few of them reach it. Beyond, the tail of the draws
is continued as an exponential one through the largest of them. Statistics whose density
is log-concave in its tail, as sums and means of many terms and Fisher's z of cosines are,
fall off at least as fast, so that the p-value errs to the large side.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.stats.p_values import SMALLEST

# Draws that the tail goes through: one in twenty of them, within these limits.
FEWEST = 10
MOST = 100
SHARE = 20


def exponential_tail_p(
    values: Float[np.ndarray, "*test"],
    draws: Float[np.ndarray, "draw ..."],
) -> Float[np.ndarray, "*test"]:
    """p-values of values against draws, each value against draws of its own.

    With u the draw that k larger ones follow and S the sum of their excesses over it, a
    value v that fewer than k draws reach has

        p = (1 + k) / (1 + D) · (1 + (v − u) / S)^(−k).

    The first factor is the probability that one more draw passes u, whatever the
    distribution; the second, that it then passes v, exactly, where excesses are
    exponential of unknown mean: (v − u) / S is the ratio of one exponential number
    to the sum of k. Values that k draws or more reach are counted, see
    `lens.stats.p_values.monte_carlo_p`. None is reported below 1e-12.

    Args:
        values: what was measured; not a number where it could not be.
        draws: of the null. The trailing axes are those of `values`, or of length 1.

    Returns:
        A p-value for each value; never 0.

    Source: Knijnenburg, Wessels, Reinders and Shmulevich, 2009, for tails fitted to
    draws; the exponential is their generalised Pareto tail of shape 0.
    """
    values = np.asarray(values, dtype=np.float64)
    draws = np.asarray(draws, dtype=np.float64)
    n_draws = len(draws)
    k = tail_size(n_draws)
    close = 1e-12 * np.maximum(np.abs(values), 1e-300)
    reached = np.count_nonzero(draws >= values - close, axis=0)
    largest = np.partition(draws, n_draws - k - 1, axis=0)[n_draws - k - 1 :]
    start = largest[0]
    excess = (largest[1:] - start).sum(axis=0)
    beyond = np.maximum(values - start, 0) / np.maximum(excess, 1e-300)
    with np.errstate(over="ignore"):
        far = (1 + k) / (1 + n_draws) * (1 + beyond) ** -float(k)
    p = np.where((reached < k) & (excess > 0), far, (1 + reached) / (1 + n_draws))
    return np.where(np.isnan(values), np.nan, np.maximum(p, SMALLEST))


def pooled_tail_p(
    values: Float[np.ndarray, "*test"], draws: Float[np.ndarray, " draw"]
) -> Float[np.ndarray, "*test"]:
    """`exponential_tail_p` of several values against one and the same set of draws."""
    values = np.asarray(values, dtype=np.float64)
    draws = np.sort(np.asarray(draws, dtype=np.float64).ravel())
    n_draws = len(draws)
    k = tail_size(n_draws)
    close = 1e-12 * np.maximum(np.abs(values), 1e-300)
    reached = n_draws - np.searchsorted(draws, values - close)
    start = draws[n_draws - k - 1]
    excess = float((draws[n_draws - k :] - start).sum())
    if excess <= 0:
        return np.where(np.isnan(values), np.nan, (1 + reached) / (1 + n_draws))
    far = (1 + k) / (1 + n_draws) * (1 + np.maximum(values - start, 0) / excess) ** -float(k)
    p = np.where(reached < k, far, (1 + reached) / (1 + n_draws))
    return np.where(np.isnan(values), np.nan, np.maximum(p, SMALLEST))


def tail_size(n_draws: int) -> int:
    """Draws that the tail goes through: a twentieth, but 10 to 100, and fewer than all."""
    return min(max(FEWEST, min(n_draws // SHARE, MOST)), n_draws - 1)
