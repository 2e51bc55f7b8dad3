"""p-values from draws, and what many of them mean together.

Axes: draw, test. Every function leaves what is not a number as it is and does not
count it: a question that could not be asked is none of the many.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# Rarer than this no number of draws, nor a tail fitted to them, can say.
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


def benjamini_hochberg(p_values: Float[np.ndarray, "*test"]) -> Float[np.ndarray, "*test"]:
    """p-values adjusted so that those below q hold at most a share q of false findings.

    Reading it: call everything with a value of at most 0.05 a finding, and on
    average at most 5 % of the calls are wrong. Holds for independent tests and
    for such as rise together. Source: Benjamini and Hochberg, 1995.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    asked = ~np.isnan(p_values)
    some = p_values[asked]
    order = np.argsort(some)
    scaled = some[order] * (len(some) / np.arange(1, len(some) + 1))
    some[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    adjusted = np.full(p_values.shape, np.nan)
    adjusted[asked] = some
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
