"""Bootstrap intervals of similarities, over the coordinates of the residual stream.

Axes: layer (L), d_model (d), expert (E), draw, pair.

A router column has d_model coordinates. Take as many of them again, with replacement,
the same ones for both layers, and compute the similarity anew: how far such values
spread is how well d_model coordinates determine it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.layers.draws import DRAWS, KEPT_PRODUCTS, SEED
from lens.layers.similarity import LAYER_METRICS, check_metric, pair_similarity
from lens.stats.draws import check_draws

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A similarity with its bootstrap interval.

    Attributes:
        value: the similarity itself.
        low, high: ends of the interval.
        bias: by how much resampling raises the value on average. Similarities that
            sum squares are raised by about their chance level; it has been taken off
            the interval, which therefore may lie below the value.
        level: share of resampled values inside.
        draws, seed: of the resampling.
    """

    value: float
    low: float
    high: float
    bias: float
    level: float
    draws: int
    seed: int


def resampled_counts(
    rng: np.random.Generator, draws: int, d_model: int
) -> Float[np.ndarray, "draw d_model"]:
    """Times that each coordinate is taken in every draw; a row sums to d_model."""
    taken = rng.integers(0, d_model, (draws, d_model))
    taken += d_model * np.arange(draws)[:, None]
    counts = np.bincount(taken.ravel(), minlength=draws * d_model)
    return counts.reshape(draws, d_model).astype(np.float32)


def pair_interval(
    columns: Float[np.ndarray, "layer d_model expert"],
    a: int,
    b: int,
    metric: str = "cka",
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    level: float = LEVEL,
) -> Interval:
    """The similarity of two layers with a bootstrap interval over coordinates.

    With s the value, s* the resampled ones and m their mean, the interval is
    2s − 2m + the quantiles of s*: their spread about the mean, around the value with
    its bias taken off. In simulations with known truth it holds that truth about as
    often as its level says, except where it lies at an end of the metric's range.

    Args:
        columns: of the view to be compared, as `RouterSet.columns` gives them.
        a: row of the first layer.
        b: row of the second.
        metric: an id of `lens.layers.similarity.LAYER_METRICS`; the sum of all weights
            counts as 0, as it is in the canonical view.
        draws: how often coordinates are taken anew.
        seed: of the resampling.
        level: share of resampled values inside.

    Raises:
        LensError: no such metric, layer, level or number of draws.
    """
    check_metric(metric)
    check_draws(draws)
    if not 0 < level < 1:
        raise LensError(f"level: found {level:g}; expected a share between 0 and 1.")
    for row in (a, b):
        if not 0 <= row < len(columns):
            raise LensError(f"layer: row {row} was asked for; expected 0 to {len(columns) - 1}.")
    d_model = columns.shape[1]
    counts = resampled_counts(np.random.default_rng(seed), draws, d_model)
    return _interval(columns[a], columns[b], metric, counts, seed, level)


@dataclass(frozen=True, eq=False)
class Intervals:
    """The intervals of all adjacent pairs of layers, see `Interval`."""

    value: Float[np.ndarray, " pair"]
    low: Float[np.ndarray, " pair"]
    high: Float[np.ndarray, " pair"]
    level: float
    draws: int
    seed: int


def adjacent_intervals(
    columns: Float[np.ndarray, "layer d_model expert"],
    metric: str = "cka",
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    level: float = LEVEL,
) -> Intervals:
    """`pair_interval` of every layer with the next, over the same resampled coordinates."""
    check_metric(metric)
    check_draws(draws)
    counts = resampled_counts(np.random.default_rng(seed), draws, columns.shape[1])
    found = [
        _interval(columns[layer], columns[layer + 1], metric, counts, seed, level)
        for layer in range(len(columns) - 1)
    ]
    return Intervals(
        value=np.array([one.value for one in found]),
        low=np.array([one.low for one in found]),
        high=np.array([one.high for one in found]),
        level=level,
        draws=draws,
        seed=seed,
    )


def _interval(
    first: Float[np.ndarray, "d_model expert"],
    second: Float[np.ndarray, "d_model expert"],
    metric: str,
    counts: Float[np.ndarray, "draw d_model"],
    seed: int,
    level: float,
) -> Interval:
    draws, n_experts = len(counts), first.shape[1]
    if metric != "euclidean":  # the others ignore a scale per layer, float32 does not
        first, second = first / np.abs(first).max(), second / np.abs(second).max()
    both = np.concatenate([first, second], axis=1)
    everything = np.vstack([np.ones_like(counts[:1]), counts])
    blocks = _weighted_products(both, everything)
    a, b = slice(None, n_experts), slice(n_experts, None)
    values = pair_similarity(metric, blocks[:, a, a], blocks[:, b, b], blocks[:, a, b])
    value, drawn = float(values[0]), values[1:]
    centre = 2 * (value - float(drawn.mean()))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) + centre
    least, most = LAYER_METRICS[metric].domain
    return Interval(
        value=value,
        low=float(np.clip(low, least, most)),
        high=float(np.clip(high, least, most)),
        bias=float(drawn.mean()) - value,
        level=level,
        draws=draws,
        seed=seed,
    )


def _weighted_products(
    columns: Float[np.ndarray, "d_model column"], weights: Float[np.ndarray, "draw d_model"]
) -> Float[np.ndarray, "draw column column"]:
    """columnsᵀ · diag(weights) · columns for every row of weights."""
    d_model, n = columns.shape
    if d_model * n * (n + 1) // 2 <= KEPT_PRODUCTS:
        i, j = np.triu_indices(n)
        flat = (weights @ (columns[:, i] * columns[:, j])).astype(np.float64)
        products = np.empty((len(weights), n, n))
        products[:, i, j] = flat
        products[:, j, i] = flat
        return products
    products = np.empty((len(weights), n, n))
    for draw, weight in enumerate(weights):
        products[draw] = columns.T @ (columns * weight[:, None])
    return products
