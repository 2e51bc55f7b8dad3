"""Chance levels: a distribution with its mean, spread and tail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.recipe.steps import remembered


@dataclass(frozen=True)
class Chance:
    """Distribution of a measure when there is nothing to find.

    Attributes:
        mean, sd: of the draws.
        low, high: their 2.5 % and 97.5 % quantiles.
        q95, q99: their 95 % and 99 % quantiles.
        draws: how many there were.
        seed: of the random numbers.
        method: what was drawn, for people.
    """

    mean: float
    sd: float
    low: float
    high: float
    q95: float
    q99: float
    draws: int
    seed: int
    method: str


@remembered
def chance_of(samples: Float[np.ndarray, " draw"], seed: int, method: str) -> Chance:
    """The summary of draws from a null."""
    low, high, q95, q99 = np.quantile(samples, [0.025, 0.975, 0.95, 0.99])
    return Chance(
        mean=float(samples.mean()),
        sd=float(samples.std()),
        low=float(low),
        high=float(high),
        q95=float(q95),
        q99=float(q99),
        draws=len(samples),
        seed=seed,
        method=method,
    )


def gaussian_grams(
    rng: np.random.Generator, draws: int, d_model: int, n_columns: int
) -> Float[np.ndarray, "draw column column"]:
    """Inner products of `n_columns` vectors of `d_model` independent standard normals.

    By Bartlett's decomposition: exact, without ever drawing the vectors. With
    fewer dimensions than columns the vectors themselves are drawn.
    """
    if d_model < n_columns:
        columns = rng.standard_normal((draws, d_model, n_columns))
        return np.einsum("nde,ndf->nef", columns, columns)
    factor = np.tril(rng.standard_normal((draws, n_columns, n_columns)), -1)
    diagonal = np.arange(n_columns)
    factor[:, diagonal, diagonal] = np.sqrt(
        rng.chisquare(d_model - diagonal, size=(draws, n_columns))
    )
    return factor @ factor.transpose(0, 2, 1)


def centered(
    blocks: Float[np.ndarray, "*batch expert expert"],
) -> Float[np.ndarray, "*batch expert expert"]:
    """Blocks of inner products after the mean column was taken off each router."""
    blocks = blocks - blocks.mean(axis=-1, keepdims=True)
    return blocks - blocks.mean(axis=-2, keepdims=True)


def percentile(value: float, samples: Float[np.ndarray, " draw"]) -> float:
    """Share of the samples below a value, in percent; ties count half.

    A value beyond all samples gets 0 or 100: more than so many draws can tell.
    """
    samples = np.asarray(samples)
    below = np.count_nonzero(samples < value) + np.count_nonzero(samples == value) / 2
    return 100.0 * below / len(samples)


def cosine_percentile(cosine: float, d_model: int) -> float:
    """Place of one cosine among those of unrelated directions, in percent, exactly.

    The square follows a Beta(½, (d − 1)/2) distribution; the spread is 1/√d.
    Reading it: for the largest of n cosines expect about 100·(1 − 1/n).
    """
    from scipy.special import betainc

    half = betainc(0.5, (d_model - 1) / 2, min(cosine * cosine, 1.0)) / 2
    return float(100 * (0.5 + np.copysign(half, cosine)))
