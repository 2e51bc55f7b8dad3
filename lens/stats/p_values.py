"""p-values from draws, and what many of them mean together.

Axes: draw, test. Every function leaves what is not a number as it is and does not
count it: a question that could not be asked is none of the many.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# Fewer draws beyond a value than this say little of how rare it is.
FEW = 10
SMALLEST = 1e-12


def monte_carlo_p(
    value: Float[np.ndarray, "*test"] | float, draws: Float[np.ndarray, "draw ..."]
) -> Float[np.ndarray, "*test"]:
    """Share of draws at least as large as a value, the value counted as one of them.

    (1 + #{draws ≥ value}) / (1 + #draws): never 0, and uniform when the value is
    one more draw. Two numbers that differ by rounding alone count as equal.
    Source: Phipson and Smyth, 2010.
    """
    value = np.asarray(value, dtype=np.float64)
    close = 1e-12 * np.maximum(np.abs(value), 1e-300)
    reached = np.count_nonzero(draws >= value - close, axis=0)
    p = (1 + reached) / (1 + len(draws))
    return np.where(np.isnan(value), np.nan, p)


def tail_p(
    z: Float[np.ndarray, "*test"],
    skewness: Float[np.ndarray, "*test"] | float,
    reached: Float[np.ndarray, "*test"],
    draws: int,
) -> Float[np.ndarray, "*test"]:
    """p-values that go on below 1 / #draws.

    Where at least 10 draws reach the value, their share is the p-value. Where
    fewer do, it is read off a Pearson type III distribution with the mean, the
    spread and the skewness of the draws. Similarities of unrelated layers are
    near sums of many independent squares or products, which that family follows
    closely; far out it is an extrapolation, so that such a value says "very
    rare" and no more, and none is reported below 1e-12.

    Args:
        z: the values, less the mean of their draws, over their spread.
        skewness: third standardised moment of the draws.
        reached: how many draws are at least as large as the value.
        draws: how many there were.
    """
    from scipy.stats import pearson3

    counted = (1 + reached) / (1 + draws)
    far = np.clip(pearson3.sf(z, skewness), SMALLEST, (1 + FEW) / (1 + draws))
    p = np.where(reached < FEW, far, counted)
    return np.where(np.isnan(z), np.nan, p)


def pooled_p(
    values: Float[np.ndarray, "*test"], draws: Float[np.ndarray, " draw"]
) -> Float[np.ndarray, "*test"]:
    """p-values of several values against one set of draws, by `tail_p`.

    Draws that are all equal have no tail: then the share of draws that reach a value.
    """
    draws = np.sort(np.asarray(draws, dtype=np.float64))
    values = np.asarray(values, dtype=np.float64)
    centre, spread = draws.mean(), float(draws.std())
    reached = len(draws) - np.searchsorted(draws, values - 1e-12)
    if spread == 0:
        return (1 + reached) / (1 + len(draws))
    skewness = float(((draws - centre) ** 3).mean() / spread**3)
    return tail_p((values - centre) / spread, skewness, reached, len(draws))


def smooth_p(value: float, draws: Float[np.ndarray, " draw"]) -> float:
    """p-value of a Pearson type III curve with the mean, spread and skewness of the draws.

    For the smallest of many p-values, which needs each of them finer than draws count.
    """
    from scipy.stats import pearson3

    apart = draws - draws.mean()
    spread = float(apart.std())
    if spread < 1e-9:  # all draws agree: a value is one of them, or none of them at all
        return 1.0 - SMALLEST if value <= draws.max() + 1e-6 else SMALLEST
    skew = float((apart**3).mean() / spread**3)
    p = float(pearson3.sf((value - draws.mean()) / spread, skew))
    return min(max(p, SMALLEST), 1.0 - SMALLEST)


def benjamini_hochberg(p_values: Float[np.ndarray, "*test"]) -> Float[np.ndarray, "*test"]:
    """p-values adjusted so that those below q hold at most a share q of false findings.

    Reading it: call everything with a value of at most 0.05 a finding, and on
    average at most 5 % of the calls are wrong. Holds for independent tests and
    for such as rise together. Source: Benjamini and Hochberg, 1995.
    """
    from scipy.stats import false_discovery_control

    p_values = np.asarray(p_values, dtype=np.float64)
    asked = ~np.isnan(p_values)
    adjusted = np.full(p_values.shape, np.nan)
    if asked.any():
        adjusted[asked] = false_discovery_control(p_values[asked])
    return adjusted


def holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values adjusted so that any false finding below α has probability at most α.

    The smallest times the number of tests, the next times one less, and so on,
    each at least the one before: max over j ≤ k of min(1, (m − j + 1)·p_(j)).
    Needs no assumption on how the tests hang together. Source: Holm, 1979.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    asked = np.flatnonzero(~np.isnan(p_values))
    order = asked[np.argsort(p_values[asked], kind="stable")]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
