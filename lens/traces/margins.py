"""Distribution of the margins of a text, beside normal logits of the same covariance.

Axes: layer (L), token (T), expert (E), level (of a quantile), frequency (of a Fourier
transform along the text), draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.chosen_by import deciding_logits
from lens.errors import LensError
from lens.recipe.steps import remembered
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


@remembered
def margin_shape(
    trace: RoutedTokens,
    *,
    levels: tuple[float, ...] = LEVELS,
    draws: int = DRAWS,
    seed: int = SEED,
) -> MarginShape:
    """Quantiles of the margin z_K − z_(K+1), and whether choices are closer than normal logits'.

    The null is a text of as many tokens whose logits are near normal, with each layer's
    measured mean and covariance, and with the measured covariance of tokens any distance
    apart: the phases of the logits' Fourier transform along the text are drawn anew, the same
    for all experts. So loads to expect, scale, likeness of neighbours, topics and drift stay;
    that tokens fall into groups or keep to borders is lost. Compared is the median margin
    divided by √(mean variance of the centred logits).

    Reading it: a value below the band says that tokens stand closer to the border between
    two choices than their spread explains, above it that they fall into groups. The test is
    two-sided.

    Raises:
        LensError: all experts are chosen by every token, or by other values than logits; fewer
            than three tokens, or logits that do not vary.

    Source: Prichard and Theiler, 1994, for the phases.
    """
    margins = margin(trace)
    n_layers, n_tokens = margins.shape
    n_experts, top_k = trace.router_logits.shape[2], trace.experts.shape[2]
    if n_tokens < 3:
        raise LensError(f"Margins: found {n_tokens} tokens; expected at least three.")
    draws = check_draws(draws)
    work = n_layers * n_tokens * n_experts
    draws = int(max(min(draws, AFFORDABLE / work), 49))
    moments = logit_moments(deciding_logits(trace, "Margins"))
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
        # float32: rounding is far below what tokens vary
        for draw, z in enumerate(_other_phases(trace.router_logits[layer], draws, rng)):
            drawn[draw, layer] = np.median(_margins(z, top_k)) / spread
    test = against_chance(
        value,
        drawn,
        seed=seed,
        method="logits with the measured mean and the measured covariance of tokens any distance "
        f"apart, phases drawn, {draws:,} texts",
        tail="both",
    )
    quantiles = np.quantile(margins, levels, axis=1).T
    return MarginShape(tuple(levels), quantiles, normal, test, n_tokens)


@remembered
def margin_histogram(
    trace: RoutedTokens, layer: int, *, bins: int = 40, seed: int = SEED
) -> tuple[Float[np.ndarray, " edge"], Int[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Margins of a layer counted in bins, and the counts that normal logits would give.

    Returns:
        Edges of the bins in logits, tokens in each, and tokens expected there.
    """
    logits = deciding_logits(trace, "Margins")[layer : layer + 1]
    own = margin(trace)[layer]
    mean, factor = _normal(logit_moments(logits), 0)
    rng = np.random.default_rng(seed)
    z = mean + rng.standard_normal((_reference_tokens(len(mean)), len(mean))) @ factor
    null = _margins(z, trace.experts.shape[2])
    top = max(float(np.quantile(own, 0.995)), float(np.quantile(null, 0.995)), 1e-9)
    edges = np.linspace(0, top, bins + 1)
    counts = np.histogram(np.minimum(own, top), edges)[0]
    expected = np.histogram(np.minimum(null, top), edges)[0] * (len(own) / len(null))
    return edges, counts, expected


def _other_phases(
    logits: Float[np.ndarray, "token expert"], draws: int, rng: np.random.Generator
) -> Iterator[Float[np.ndarray, "token expert"]]:
    """Texts with the mean, the power and the cross power of the logits at every frequency."""
    from scipy.fft import irfft, rfft

    n_tokens = len(logits)
    centred = logits.astype(np.float32) - logits.mean(axis=1, keepdims=True, dtype=np.float32)
    power = rfft(centred, axis=0)
    for _ in range(draws):
        turn = np.exp(2j * np.pi * rng.random(len(power))).astype(np.complex64)
        turn[0] = 1
        if n_tokens % 2 == 0:  # the last frequency has a sign alone
            turn[-1] = rng.choice([-1, 1])
        yield irfft(power * turn[:, None], n_tokens, axis=0)


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
