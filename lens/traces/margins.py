"""Distribution of the margins of a text, beside normal logits of the same covariance.

Axes: layer (L), token (T), expert (E), level (of a quantile), draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.stats.draws import check_draws
from lens.stats.permutation_tests import SEED, AgainstChance, against_chance
from lens.traces.logit_moments import LogitMoments, logit_moments
from lens.traces.protocols import RoutedTokens
from lens.traces.routing import margin

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
DRAWS = 199
# Normal logits of one layer whose margins stand for the null's distribution, in numbers;
# and numbers drawn in all.
REFERENCE = 160_000
AFFORDABLE = 5e7


@dataclass(frozen=True, eq=False)
class MarginShape:
    """Margins of each layer beside those that normal logits would have.

    Attributes:
        levels: of the quantiles.
        quantiles: of the text's margins, in logits.
        normal: of the margins of normal logits with the layer's mean and covariance.
        test: median margin over the spread of the logits, with its null.
        n_tokens: tokens.
    """

    levels: tuple[float, ...]
    quantiles: Float[np.ndarray, "layer level"]
    normal: Float[np.ndarray, "layer level"]
    test: AgainstChance
    n_tokens: int


def margin_shape(
    trace: RoutedTokens,
    *,
    levels: tuple[float, ...] = LEVELS,
    draws: int = DRAWS,
    seed: int = SEED,
) -> MarginShape:
    """Quantiles of the margin z_K − z_(K+1), and whether choices are closer than normal logits'.

    The null is a text of as many tokens whose logits are normal with each layer's measured
    mean and E × E covariance: the same loads to expect, the same scale, and no more
    structure. Compared is the median margin divided by √(mean variance of the centred
    logits), which is taken anew in every draw.

    Reading it: a value below the band says that tokens stand closer to the border between
    two choices than their spread explains, above it that they fall into groups. The test is
    two-sided; it takes tokens as independent.

    Raises:
        LensError: all experts are chosen by every token, fewer than three tokens, or logits
            that do not vary.
    """
    margins = margin(trace)
    n_layers, n_tokens = margins.shape
    n_experts, top_k = trace.router_logits.shape[2], trace.experts.shape[2]
    if n_tokens < 3:
        raise LensError(f"Margins: found {n_tokens} tokens; expected at least three.")
    draws = check_draws(draws)
    work = n_layers * n_tokens * n_experts
    draws = int(max(min(draws, AFFORDABLE / work), 49))
    moments = logit_moments(trace.router_logits)
    value, drawn = np.empty(n_layers), np.empty((draws, n_layers))
    normal = np.empty((n_layers, len(levels)))
    rng = np.random.default_rng(seed)
    for layer in range(n_layers):
        mean, factor = _normal(moments, layer)
        spread = np.sqrt(_variance(trace.router_logits[layer].astype(np.float64)))
        if spread == 0:
            raise LensError(
                f"Margins: layer row {layer}: the router logits do not vary between tokens, so "
                "there is no spread to compare with. Use a longer text."
            )
        value[layer] = np.median(margins[layer]) / spread
        sample = mean + rng.standard_normal((_reference_tokens(n_experts), n_experts)) @ factor
        normal[layer] = np.quantile(_margins(sample, top_k), levels)
        mean32, factor32 = mean.astype(np.float32), factor.astype(np.float32)
        for draw in range(draws):  # float32: rounding is far below what tokens vary
            z = mean32 + rng.standard_normal((n_tokens, n_experts), dtype=np.float32) @ factor32
            drawn[draw, layer] = np.median(_margins(z, top_k)) / np.sqrt(_variance(z))
    test = against_chance(
        value,
        drawn,
        seed=seed,
        method=f"normal logits with the measured mean and covariance, {draws:,} texts",
        tail="both",
    )
    quantiles = np.quantile(margins, levels, axis=1).T
    return MarginShape(tuple(levels), quantiles, normal, test, n_tokens)


def margin_histogram(
    trace: RoutedTokens, layer: int, *, bins: int = 40, seed: int = SEED
) -> tuple[Float[np.ndarray, " edge"], Int[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Margins of a layer counted in bins, and the counts that normal logits would give.

    Returns:
        Edges of the bins in logits, tokens in each, and tokens expected there.
    """
    own = margin(trace)[layer]
    mean, factor = _normal(logit_moments(trace.router_logits[layer : layer + 1]), 0)
    rng = np.random.default_rng(seed)
    z = mean + rng.standard_normal((_reference_tokens(len(mean)), len(mean))) @ factor
    null = _margins(z, trace.experts.shape[2])
    top = max(float(np.quantile(own, 0.995)), float(np.quantile(null, 0.995)), 1e-9)
    edges = np.linspace(0, top, bins + 1)
    counts = np.histogram(np.minimum(own, top), edges)[0]
    expected = np.histogram(np.minimum(null, top), edges)[0] * (len(own) / len(null))
    return edges, counts, expected


def _reference_tokens(n_experts: int) -> int:
    return max(REFERENCE // n_experts, 4000)


def _normal(moments: LogitMoments, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and root of the covariance of one layer's logits, without what all experts share."""
    mean = moments.mean[layer] - moments.mean[layer].mean()
    covariance = moments.covariance[layer]
    covariance = covariance - covariance.mean(axis=0)
    covariance = covariance - covariance.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return mean, (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _margins(z: np.ndarray, top_k: int) -> np.ndarray:
    n_experts = z.shape[1]
    ordered = np.sort(z, axis=1)  # faster here than a partition about two places
    return ordered[:, n_experts - top_k] - ordered[:, n_experts - top_k - 1]


def _variance(z: np.ndarray) -> float:
    """Mean over experts of the variance of the logits less the mean of all experts."""
    z = z - z.mean(axis=1, keepdims=True)
    return float(z.var(axis=0, ddof=1).mean())
