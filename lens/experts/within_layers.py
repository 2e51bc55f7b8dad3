"""Experts of one layer against each other: which pairs are other than equal experts.

Axes: layer (L), expert (E), draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.experts.unequal_experts import EqualExperts
from lens.layers.draws import DRAWS, SEED
from lens.routers.gram import RouterGram
from lens.stats.chance import centered, gaussian_grams
from lens.stats.draws import check_draws
from lens.stats.exponential_tail import pooled_tail_p
from lens.stats.p_values import benjamini_hochberg

# Cosines of unrelated columns that are drawn, and of equal experts of one layer that are used.
ENOUGH = 50_000

EQUAL = "equal experts"
UNRELATED = "unrelated columns"


@dataclass(frozen=True, eq=False)
class WithinLayers:
    """Cosines between the router columns of each layer, and their null.

    Attributes:
        cosines: of all pairs of a layer.
        p: two-sided: share of pairs of the null at least as far from the baseline.
        q: the same, adjusted for the pairs of the layer (Benjamini–Hochberg).
        baseline: mean of unrelated columns: −1 / (E − 1) in the canonical view, 0 in the raw one.
        sd: spread of the null of each layer; of the two kinds of equal experts the larger.
        unrelated_sd: spread of unrelated columns, close to 1 / √d: the absolute zero.
        null: what p is measured against, for people.
        draws, seed: of the null.
    """

    cosines: Float[np.ndarray, "layer expert expert"]
    p: Float[np.ndarray, "layer expert expert"]
    q: Float[np.ndarray, "layer expert expert"]
    baseline: float
    sd: Float[np.ndarray, " layer"]
    unrelated_sd: float
    null: str
    draws: int
    seed: int


def within_layers(
    gram: RouterGram,
    equal: EqualExperts | None = None,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> WithinLayers:
    """Which experts of a layer read nearer to each other, or further apart, than equal ones.

    The null of the canonical view is `lens.experts.unequal_experts.equal_experts`: the
    layer with its weights dealt to other experts, and experts mixed from all layers; the
    larger p counts. Norm scales, outlier dimensions and a common subspace, which alone put
    experts nearer or further apart than unrelated columns, are in it. One column much
    longer than the others leaves its direction in their mean and so moves the pairs it
    is in, and those of the others, away from the baseline: that counts as a finding.

    In the raw view, where columns are shifted by what all of them share, there is no such
    null: pairs are set against independent Gaussian columns of equal variance.

    Args:
        gram: inner products of the view.
        equal: draws of equal experts for the canonical view; None for the raw one.
        draws: routers of unrelated columns that are drawn; fewer with many experts, whose
            draws hold more pairs.
        seed: of those draws.
    """
    n_layers, n_experts = gram.n_layers, gram.n_experts
    pairs = np.triu_indices(n_experts, 1)
    draws = max(19, min(check_draws(draws), -(-ENOUGH // len(pairs[0]))))
    baseline = 0.0 if equal is None else -1 / (n_experts - 1)
    drawn = gaussian_grams(np.random.default_rng(seed), draws, gram.d_model, n_experts)
    unrelated = _apart(drawn if equal is None else centered(drawn), baseline)
    distance = np.abs(gram.own_cosines[:, *pairs] - baseline)
    if equal is None:
        p, sd = pooled_tail_p(distance, unrelated), np.full(n_layers, _spread(unrelated))
        null = UNRELATED
    else:
        mixed = _apart(equal.mixed, baseline)
        p, sd = pooled_tail_p(distance, mixed), np.full(n_layers, _spread(mixed))
        for layer in range(n_layers):
            dealt = _apart(equal.dealt[:, layer], baseline)
            p[layer] = np.maximum(p[layer], pooled_tail_p(distance[layer], dealt))
            sd[layer] = max(sd[layer], _spread(dealt))
        null, draws, seed = EQUAL, len(equal.dealt), equal.seed
    if n_experts == 2 and equal is not None:  # opposite once their mean is off, whatever they are
        p[:] = 1
    q = np.stack([benjamini_hochberg(values) for values in p])
    return WithinLayers(
        cosines=gram.own_cosines,
        p=_whole(p, n_experts),
        q=_whole(q, n_experts),
        baseline=baseline,
        sd=sd,
        unrelated_sd=_spread(unrelated),
        null=null,
        draws=draws,
        seed=seed,
    )


def _apart(
    grams: Float[np.ndarray, "draw expert expert"], baseline: float
) -> Float[np.ndarray, " value"]:
    """Distance of the cosines of all pairs of drawn routers from the baseline."""
    norms = np.sqrt(np.einsum("dee->de", grams))
    a, b = np.triu_indices(grams.shape[1], 1)
    grams = grams[: max(4, -(-ENOUGH // len(a)))]
    norms = norms[: len(grams)]
    return np.abs(grams[:, a, b] / (norms[:, a] * norms[:, b]) - baseline).ravel()


def _spread(apart: np.ndarray) -> float:
    return float(np.sqrt((apart * apart).mean()))


def _whole(
    values: Float[np.ndarray, "layer pair"], n_experts: int
) -> Float[np.ndarray, "layer expert expert"]:
    """Symmetric matrices of the values of all pairs; the diagonal is not a number."""
    a, b = np.triu_indices(n_experts, 1)
    whole = np.full((len(values), n_experts, n_experts), np.nan)
    whole[:, a, b] = whole[:, b, a] = values
    return whole
