"""What unrelated layers and experts look like.

Axes: draw, column (the columns of one or two routers), expert (E).

A router of independent Gaussian weights has no structure. Only inner products of
its columns matter here, and those follow a Wishart distribution, which can be
drawn in as many dimensions as there are columns, whatever d_model is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from lens.gram import RouterGram
from lens.routers import check_view
from lens.similarity import check_metric, pair_similarity


@dataclass(frozen=True)
class Chance:
    """What a measure gives when there is nothing to find.

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


def unrelated_pairs(
    d_model: int, n_experts: int, draws: int, seed: int, view: str = "canonical"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of inner products of pairs of unrelated routers.

    Returns:
      Each first router with itself, each second with itself, first with second:
      three arrays [draw, expert, expert].
    """
    grams = gaussian_grams(np.random.default_rng(seed), draws, d_model, 2 * n_experts)
    first, second = slice(None, n_experts), slice(n_experts, None)
    blocks = grams[:, first, first], grams[:, second, second], grams[:, first, second]
    if check_view(view) == "raw":
        return blocks
    return centered(blocks[0]), centered(blocks[1]), centered(blocks[2])


@lru_cache(maxsize=64)
def chance_samples(
    metric: str,
    d_model: int,
    n_experts: int,
    draws: int = 200,
    seed: int = 0,
    norm: float | None = None,
    view: str = "canonical",
) -> Float[np.ndarray, " draw"]:
    """Similarities of pairs of unrelated layers, see `chance_level`; sorted, read-only."""
    first, second, cross = unrelated_pairs(d_model, n_experts, draws, seed, view)
    if norm is not None:
        scale = norm**2 / np.einsum("dee->d", first).mean()
        first, second, cross = first * scale, second * scale, cross * scale
    samples = np.sort(pair_similarity(check_metric(metric), first, second, cross))
    samples.flags.writeable = False
    return samples


def chance_level(
    metric: str,
    d_model: int,
    n_experts: int,
    draws: int = 200,
    seed: int = 0,
    norm: float | None = None,
    view: str = "canonical",
) -> Chance:
    """Similarity of two layers that have nothing to do with each other.

    Two routers of independent Gaussian weights, seen in the view asked for; where the
    metric matches experts, the matching is done anew in every draw, for the best
    of many pairings is above 0 by itself.

    It is the null of isotropic weights. Directions that all layers share, such
    as a few dominant dimensions of the residual stream, raise similarities above
    it by themselves; `lens.gram.effective_dimension` says whether to expect so.

    Args:
      metric: an id of `lens.similarity.LAYER_METRICS`.
      d_model: length of the router columns.
      n_experts: experts a layer.
      draws: pairs drawn.
      seed: of the random numbers.
      norm: Frobenius norm of a typical router in this view; only "euclidean" depends
        on it. By default that of weights with variance 1.
      view: "canonical" or "raw".
    """
    samples = chance_samples(metric, d_model, n_experts, draws, seed, norm, view)
    method = "pairs of independent Gaussian routers"
    if view == "canonical":
        method += ", centred"
    if metric == "matched_cosine":
        method += ", matched anew in every draw"
    return chance_of(samples, seed, method)


def typical_norm(gram: RouterGram) -> float:
    """Median over layers of the Frobenius norm of a router, for `chance_level`."""
    return float(np.median(np.sqrt((gram.norms**2).sum(axis=1))))


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
