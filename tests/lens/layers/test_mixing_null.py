"""Pairs of layers with experts in common beat mixing, pairs in a common subspace do not."""

import numpy as np
import pytest

from lens.layers.mixing_null import mixing_null
from lens.layers.pair_null import layer_null
from tests.lens.router_noise import canonical, noise, planted, router_set


@pytest.mark.parametrize("n_experts", [8, 16])
def test_pairs_with_experts_in_common_are_found(n_experts):
    rng = np.random.default_rng(0)
    layers = rng.standard_normal((6, 256, n_experts))
    layers[4] = layers[1][:, rng.permutation(n_experts)] + layers[4]
    null = mixing_null(canonical(router_set(layers)), draws=199)
    assert null.q[1, 4] == null.q[4, 1] < 0.01
    assert null.found() == 1 and np.isnan(null.q[2, 2])
    assert null.draws == (199 if n_experts == 8 else 6)


def test_a_common_subspace_beats_turned_layers_and_not_mixed_experts():
    gram = canonical(noise("subspace of 32", 0))
    assert layer_null(gram, "matched_cosine", draws=99).found() > 50
    assert mixing_null(gram, draws=99).found() == 0


def test_halves_with_experts_of_their_own_are_told_apart():
    null = mixing_null(canonical(planted("two halves", "shared γ, σ 0.5", 1)), draws=199)
    first, second = np.nonzero(np.triu(null.q <= 0.05))
    assert len(first) > 20 and ((first < 6) == (second < 6)).all()


def test_one_layer_has_no_pairs():
    null = mixing_null(canonical(noise("isotropic", 0, (1, 64, 4))), draws=19)
    assert np.isnan(null.p).all() and null.p.shape == (1, 1)
