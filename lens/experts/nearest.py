"""The experts of other layers that read most nearly what one expert reads, beside two chances.

Axes: expert (E), draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lens.layers.draws import SEED
from lens.routers.expert_mixing import expert_mixings, mixed_cosines
from lens.routers.gram import RouterGram
from lens.routers.matching import nearest_experts
from lens.stats.chance import cosine_percentile
from lens.stats.exponential_tail import pooled_tail_p

# Draws of each pair of layers: as many as give so many cosines, within these limits.
ENOUGH = 40_000
FEWEST, MOST = 3, 20


@dataclass(frozen=True)
class NearExpert:
    """An expert of another layer, and how near it is.

    Attributes:
        layer, expert: which it is.
        cosine: of the two router columns.
        mixed_percentile: its place among cosines of experts that are mixed within the same two
            layers, which read the same directions: 50 where both are as near as any two
            mixtures.
        unrelated_percentile: its place among cosines of unrelated directions.
    """

    layer: int
    expert: int
    cosine: float
    mixed_percentile: float
    unrelated_percentile: float


def near_experts(
    gram: RouterGram, layer: int, expert: int, n: int = 8, *, seed: int = SEED
) -> list[NearExpert]:
    """The nearest experts of other layers, the largest cosine first.

    The largest of all cosines is looked at, so that a percentile of 100·(1 − 1/m) is
    usual where there are m experts in other layers. Of both ways of mixing, see
    `lens.routers.expert_mixing`, the lower percentile counts. Beyond the draws the tail
    of their Fisher z is continued.

    Args:
        gram: all inner products.
        layer: row of the expert's layer.
        expert: its index in that layer.
        n: how many at most.
        seed: of the mixtures.
    """
    n_experts = gram.n_experts
    draws = min(max(ENOUGH // n_experts**2, FEWEST), MOST)
    mixings = expert_mixings(gram.n_layers, n_experts, draws, seed)
    pools: dict[int, list[np.ndarray]] = {}
    found = []
    for other, its_expert, cosine in nearest_experts(gram, layer, expert, n):
        if other not in pools:
            pools[other] = [
                np.arctanh(np.clip(drawn, -1 + 1e-9, 1 - 1e-9)).ravel()
                for even in (False, True)
                for drawn in [mixed_cosines(gram, layer, other, mixings, even_lengths=even)]
            ]
        value = np.array(np.arctanh(min(max(cosine, -1 + 1e-9), 1 - 1e-9)))
        p = max(float(pooled_tail_p(value, pool)) for pool in pools[other])
        place = cosine_percentile(cosine, gram.d_model)
        found.append(NearExpert(other, its_expert, cosine, 100 * (1 - p), place))
    return found
