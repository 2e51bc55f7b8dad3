"""The nearest experts of other layers beside mixed experts and unrelated directions."""

import numpy as np
import pytest

from lens.experts.nearest import near_experts
from lens.routers.matching import nearest_experts
from tests.lens.router_noise import KINDS, canonical, noise, router_set

OTHERS = 88


@pytest.mark.parametrize("kind", ["shared γ, σ 1", "outlier × 15"])
def test_the_nearest_expert_of_noise_is_as_near_as_the_nearest_of_so_many_mixtures(kind):
    usual = 100 * (1 - 1 / OTHERS)
    places = []
    for seed in range(25):
        near = near_experts(canonical(noise(kind, seed)), seed % 12, 3, 1)[0]
        places.append((near.mixed_percentile, near.unrelated_percentile))
    mixed, unrelated = np.median(places, axis=0)
    assert mixed < usual + 0.8  # 98.9 is usual; 98.2 and 90.2 in 30 sets
    assert unrelated > 99.9


def test_an_expert_that_stands_for_the_same_in_two_layers_is_beyond_all_mixtures():
    rng = np.random.default_rng(2)
    layers = rng.standard_normal((12, 256, 8))
    layers[9, :, 5] = 0.8 * layers[4, :, 1] + 0.6 * layers[9, :, 5]
    gram = canonical(router_set(KINDS["shared γ, σ 0.5"](rng, layers)))
    near = near_experts(gram, 4, 1, 3)
    assert [(n.layer, n.expert, n.cosine) for n in near] == nearest_experts(gram, 4, 1, 3)
    assert near[0].layer == 9 and near[0].expert == 5
    assert near[0].mixed_percentile > 99.99 > near[1].mixed_percentile
