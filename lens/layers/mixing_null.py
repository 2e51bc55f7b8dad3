"""Which pairs of layers have experts in common, beyond the space that both read.

Axes: layer (L), pair, draw, expert (E).

The matched cosine of every pair of layers beside that of the same two layers with their
experts mixed (`lens.routers.expert_mixing`), matched anew in every draw.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from lens.layers.pair_null import LayerNull
from lens.layers.shared_directions import SharedDirections, shared_null, taken_in_words
from lens.layers.similarity import layer_similarity
from lens.routers.expert_mixing import (
    DRAWS,
    SEED,
    expert_mixings,
    mixed_matches,
    mixed_similarities,
)
from lens.routers.gram import RouterGram
from lens.routers.matching import SUBSET_EXPERTS
from lens.stats.exponential_tail import exponential_tail_p, pooled_tail_p
from lens.stats.p_values import benjamini_hochberg

# Draws of each pair where every matching takes an assignment of its own.
DRAWS_OF_MANY = 6


def mixing_null(gram: RouterGram, *, draws: int = DRAWS, seed: int = SEED) -> LayerNull:
    """The matched cosine of every pair of layers against layers whose experts are mixed.

    With more than 10 experts a matching takes an assignment a pair and draw, and six draws
    are made of each pair. What a pair exceeds the mean of its draws by is then set against
    what each draw exceeds the mean of the others by, for all pairs together, in units that
    make up for the mean of five instead of six. That takes the spread, not the level, for the
    same in all pairs. Uniform on noise of any covariance; of weights with heavy tails
    (Student's t with 3 degrees) 7 in 100 are below 0.05 with 8 experts, 13 with 16.

    Args:
        gram: inner products, canonical.
        draws: of each pair; at most six with more than 10 experts.
        seed: of the draws.
    """
    n, many = gram.n_layers, gram.n_experts > SUBSET_EXPERTS
    draws = min(draws, DRAWS_OF_MANY) if many else draws
    similarity = layer_similarity(gram, "matched_cosine")
    upper = np.triu_indices(n, 1)
    mixings = expert_mixings(n, gram.n_experts, draws, seed)
    rows = [values for _, values in mixed_similarities(gram, mixings)]
    drawn = np.concatenate(rows, axis=1) if rows else np.empty((draws, 0))  # pairs as in `upper`
    values = similarity[upper]
    centre = drawn.mean(axis=0)
    if many:
        left_out = (centre * draws - drawn) / (draws - 1)
        apart = (drawn - left_out) * np.sqrt((1 + 1 / draws) / (1 + 1 / (draws - 1)))
        p = pooled_tail_p(values - centre, apart.ravel()) if len(values) else values
        spread = np.full(len(values), apart.std())
    else:
        p = exponential_tail_p(values, drawn) if len(values) else values
        spread = drawn.std(axis=0)
    return LayerNull(
        metric="matched_cosine",
        similarity=similarity,
        mean=_whole(centre, n),
        sd=_whole(spread, n),
        z=_whole((values - centre) / np.maximum(spread, 1e-300), n),
        p=_whole(p, n),
        q=_whole(benjamini_hochberg(p), n),
        draws=draws,
        seed=seed,
        method="experts mixed within each layer, matched anew in every draw"
        + (", pairs pooled" if many else ""),
        reference="shared",
    )


def null_beyond_shared(
    shared: SharedDirections, metric: str, *, draws: int = DRAWS, seed: int = SEED
) -> LayerNull:
    """Every pair of layers against what all layers share, by the null that fits the metric.

    Matched experts are set against experts mixed within their layers, all other similarities
    against layers mixed from all layers.

    Args:
        shared: from `without_shared`.
        metric: an id of `lens.layers.similarity.LAYER_METRICS`.
        draws: of each pair where experts are mixed.
        seed: of the draws.
    """
    if metric != "matched_cosine":
        return shared_null(shared, metric, seed=seed)
    found = mixing_null(shared.gram, draws=draws, seed=seed)
    return replace(
        found,
        method=f"{taken_in_words(shared)}, {found.method}",
        directions=shared.directions,
        share=shared.share,
    )


def mixed_pair(
    gram: RouterGram, a: int, b: int, *, draws: int = DRAWS, seed: int = SEED
) -> Float[np.ndarray, " draw"]:
    """Matched cosines of two layers whose experts are mixed, matched anew in every draw; sorted.

    Args:
        gram: inner products, canonical.
        a, b: rows of the layers.
        draws: of the pair.
        seed: of the draws.
    """
    mixings = expert_mixings(gram.n_layers, gram.n_experts, draws, seed)
    return np.sort(mixed_matches(gram, a, b, mixings).mean(axis=1))


def _whole(pairs: Float[np.ndarray, " pair"], n: int) -> Float[np.ndarray, "layer layer"]:
    """A symmetric matrix of its values above the diagonal, which is not a number."""
    matrix = np.full((n, n), np.nan)
    upper = np.triu_indices(n, 1)
    matrix[upper] = matrix.T[upper] = pairs
    return matrix
