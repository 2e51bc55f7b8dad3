"""Groups of noise: none beyond what all layers share, though many beyond unrelated directions.

In 20 sets of each kind, in the order of `KINDS`, any number of groups has p ≤ 0.05 beside layers
mixed from all layers in 5, 10, 10, 10, 5, 25, 15 and 5 of 100; beside unrelated layers in 0, 95,
100, 100, 100, 30, 30 and 0. Beside shuffled coordinates it is 10 and 5 of 100 for the two kinds of
`HEAVY`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lens.clustering.reference_sets import ClusterSettings, clustered_layers
from lens.clustering.tree_null import LEVEL, group_null
from lens.clustering.trees import layer_tree
from lens.layers.references import Reference
from tests.lens.router_noise import KINDS, noise, planted

# No shared covariance describes them: layers with large weights of their own.
HEAVY = ("Student-t, 3", "own γ, σ 0.5")
COMMON = ("shared γ, σ 1", "outlier × 15", "subspace of 32")


@cache
def found(kind: str, reference: Reference, sets: int = 6) -> int:
    """Sets of noise in which any number of groups stands out."""
    number = 0
    for seed in range(sets):
        layers = clustered_layers(noise(kind, seed), ClusterSettings(reference=reference))
        null = group_null(layers, layer_tree(layers.gram), draws=19, seed=seed)
        number += bool(np.nanmin(null.p_any) <= LEVEL)
    return number


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_no_groups_beyond_the_directions_that_all_layers_share(kind):
    assert found(kind, "shared") <= (3 if kind in HEAVY else 2)


def test_all_kinds_of_noise_together_have_about_as_many_groups_as_chance():
    assert sum(found(kind, "shared") for kind in KINDS if kind not in HEAVY) <= 6  # of 36


@pytest.mark.parametrize("kind", HEAVY)
def test_large_weights_of_their_own_make_no_groups_beyond_shuffled_coordinates(kind):
    assert found(kind, "shuffled") <= 2


@pytest.mark.parametrize("kind", COMMON)
def test_what_all_layers_share_makes_groups_beyond_unrelated_directions(kind):
    assert found(kind, "unrelated", 3) >= 2


@pytest.mark.parametrize("kind", ["isotropic", "shared γ, σ 0.5"])
def test_two_halves_stand_out_beyond_the_directions_that_all_layers_share(kind):
    best = []
    for seed in range(3):
        layers = clustered_layers(planted("two halves", kind, seed), ClusterSettings())
        null = group_null(layers, layer_tree(layers.gram), draws=19, seed=seed)
        best.append(null.best is not None and null.p_any[null.best] <= LEVEL)
    assert sum(best) >= 2
