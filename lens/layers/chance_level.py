"""Similarity of unrelated layers and experts.

Axes: draw, column (the columns of one or two routers), expert (E).

A router of independent Gaussian weights has no structure. Only inner products of
its columns matter here, and those follow a Wishart distribution, which can be
drawn in as many dimensions as there are columns, whatever d_model is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float

from lens.layers.similarity import check_metric, pair_similarity
from lens.routers.gram import RouterGram
from lens.routers.router_set import check_view
from lens.stats.chance import Chance, centered, chance_of, gaussian_grams


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
    it by themselves; `lens.routers.gram.effective_dimension` says whether to expect so.

    Args:
        metric: an id of `lens.layers.similarity.LAYER_METRICS`.
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
