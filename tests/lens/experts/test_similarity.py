"""Similarity of experts against plain loops over their columns."""

import numpy as np
import pytest

from lens.errors import LensError
from lens.experts.similarity import expert_correlation, expert_similarity_across_layers
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(7)
L, D, E = 6, 50, 5


def related_layers(seed: int = 0) -> np.ndarray:
    """Layers that share more the closer they are, columns of unequal length."""
    rng = np.random.default_rng(seed)
    layers = [rng.standard_normal((D, E))]
    for _ in range(L - 1):
        layers.append(0.8 * layers[-1] + 0.6 * rng.standard_normal((D, E)))
    return (np.stack(layers) * np.linspace(0.6, 1.4, E)).astype(np.float32)


ROUTERS = RouterSet(related_layers(), norm_scales=RNG.uniform(0.5, 2, (L, D)).astype(np.float32))


def test_expert_matrices_are_the_correlations_and_cosines_of_single_columns():
    gram = router_gram(ROUTERS)
    columns = ROUTERS.columns().astype(np.float64)
    cosine, correlation = gram.own_cosines, expert_correlation(gram)
    across = expert_similarity_across_layers(gram)
    assert cosine.shape == correlation.shape == (L, E, E) and across.shape == (E, L, L)
    for layer in range(L):
        np.testing.assert_allclose(correlation[layer], np.corrcoef(columns[layer].T), atol=1e-5)
        unit = columns[layer] / np.linalg.norm(columns[layer], axis=0)
        np.testing.assert_allclose(cosine[layer], unit.T @ unit, atol=1e-5)
    for expert in range(E):
        unit = columns[:, :, expert]
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        np.testing.assert_allclose(across[expert], unit @ unit.T, atol=1e-5)


def test_unrelated_experts_sit_at_minus_one_over_e_minus_1():
    gram = router_gram(RouterSet(RNG.standard_normal((8, 4096, 8)).astype(np.float32)))
    off = gram.own_cosines[:, ~np.eye(8, dtype=bool)]
    assert off.mean() == pytest.approx(-1 / 7, abs=0.001)


def test_the_correlation_of_a_constant_column_is_refused():
    routers = related_layers()
    routers[2, :, 1] = 0.5
    with pytest.raises(LensError, match="Layer 2, expert 1: all weights .* are equal"):
        expert_correlation(router_gram(RouterSet(routers), "raw"))
