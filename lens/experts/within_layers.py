"""Experts of one layer against each other: which pairs are other than unrelated ones.

Axes: layer (L), expert (E), draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.layers.draws import DRAWS, SEED
from lens.routers.gram import RouterGram
from lens.stats.chance import centered, gaussian_grams
from lens.stats.draws import check_draws
from lens.stats.p_values import benjamini_hochberg, tail_p

# Cosines that are drawn, over all pairs of a layer.
ENOUGH = 50_000


@dataclass(frozen=True, eq=False)
class WithinLayers:
    """Cosines between the router columns of each layer, and their null.

    Attributes:
        cosines: of all pairs of a layer.
        p: two-sided: share of unrelated pairs at least as far from the baseline.
        q: the same, adjusted for the pairs of the layer (Benjamini–Hochberg).
        baseline: mean of the null: −1 / (E − 1) in the canonical view, 0 in the raw one.
        sd: spread of the null, close to 1 / √d.
        draws, seed: of the null.
    """

    cosines: Float[np.ndarray, "layer expert expert"]
    p: Float[np.ndarray, "layer expert expert"]
    q: Float[np.ndarray, "layer expert expert"]
    baseline: float
    sd: float
    draws: int
    seed: int


def within_layers(
    gram: RouterGram, view: str = "canonical", *, draws: int = DRAWS, seed: int = SEED
) -> WithinLayers:
    """Which experts of a layer read nearer to each other, or further apart, than chance.

    The null is a router of independent Gaussian columns of equal variance, less their
    mean in the canonical view; all pairs of all draws are pooled. One column much
    longer than the others leaves its direction in their mean and so moves the pairs it
    is in, and those of the others, away from the baseline: that counts as a finding.

    Args:
        gram: inner products of the view.
        view: "canonical" or "raw".
        draws: routers drawn; fewer with many experts, whose draws hold more pairs.
        seed: of the draws.
    """
    n_experts = gram.n_experts
    pairs = np.triu_indices(n_experts, 1)
    draws = max(19, min(check_draws(draws), -(-ENOUGH // len(pairs[0]))))
    drawn = gaussian_grams(np.random.default_rng(seed), draws, gram.d_model, n_experts)
    if view == "canonical":
        drawn = centered(drawn)
    norms = np.sqrt(np.einsum("dee->de", drawn))
    null = (drawn[:, *pairs] / (norms[:, pairs[0]] * norms[:, pairs[1]])).ravel()
    baseline, sd = float(null.mean()), float(null.std())
    apart = np.sort(np.abs(null - baseline)) / max(sd, 1e-5)
    cosines = gram.own_cosines
    distance = np.abs(cosines[:, *pairs] - baseline) / max(sd, 1e-5)
    reached = len(apart) - np.searchsorted(apart, distance - 1e-9)
    one_side = tail_p(distance, 0.0, (reached + 1) // 2, len(apart))
    p, q = np.full(cosines.shape, np.nan), np.full(cosines.shape, np.nan)
    two_sided = np.minimum(2 * one_side, 1)
    if sd < 1e-6:  # two experts are opposite once their mean is off, whatever they are
        two_sided[:] = 1
    for layer, values in enumerate(two_sided):
        adjusted = benjamini_hochberg(values)
        for place, found in ((p, values), (q, adjusted)):
            place[layer][pairs] = found
            place[layer].T[pairs] = found
    return WithinLayers(cosines, p, q, baseline, sd, draws, seed)
