"""Mixing experts keeps what a layer reads, and loses which expert reads it."""

import numpy as np
import pytest

from lens.layers.similarity import layer_similarity
from lens.routers.best_assignments import best_totals
from lens.routers.expert_mixing import (
    expert_mixings,
    mixed_cosines,
    mixed_matches,
    mixed_similarities,
    zero_sum_basis,
)
from lens.routers.gram import gram_of_columns
from lens.routers.matching import assign, mean_matched


@pytest.fixture(scope="module")
def columns() -> np.ndarray:
    layers = np.random.default_rng(0).standard_normal((4, 40, 6))
    layers[2, :, 3] *= 4
    return layers - layers.mean(axis=2, keepdims=True)


def test_the_basis_is_orthonormal_and_sums_to_0():
    for n in (2, 3, 8):
        basis = zero_sum_basis(n)
        assert np.allclose(basis.T @ basis, np.eye(n - 1)) and np.allclose(basis.sum(axis=0), 0)


def test_mixing_keeps_the_second_moment_and_every_similarity_of_spaces(columns):
    mixings = expert_mixings(4, 6, 5, seed=1)
    mixed = np.stack([columns[layer] @ mixings.of(layer)[3] for layer in range(4)])
    moments = [layers @ layers.transpose(0, 2, 1) for layers in (columns, mixed)]
    assert np.allclose(*moments)
    assert np.allclose(mixed.sum(axis=2), 0)
    for metric in ("cka", "principal_angles"):
        before, after = (layer_similarity(gram_of_columns(c), metric) for c in (columns, mixed))
        assert np.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("even_lengths", [False, True])
def test_cosines_from_inner_products_are_those_of_the_mixed_columns(columns, even_lengths):
    gram = gram_of_columns(columns)
    mixings = expert_mixings(4, 6, 7, seed=2)
    found = mixed_cosines(gram, 1, 2, mixings, even_lengths=even_lengths)
    units = [mixings.unit(gram, layer, even_lengths=even_lengths)[4] for layer in (1, 2)]
    first, second = (columns[layer] @ unit for layer, unit in zip((1, 2), units, strict=True))
    assert np.allclose(np.linalg.norm(first, axis=0), 1, atol=1e-5)
    assert np.allclose(found[4], first.T @ second, atol=1e-5)
    if even_lengths:  # of the mixed unit columns, whose sum weighted by length is 0
        weights = np.linalg.lstsq(first, np.zeros(40), rcond=None)[0]
        assert np.linalg.matrix_rank(first, tol=1e-4) == 5 and np.allclose(first @ weights, 0)


def test_layers_are_mixed_independently_and_in_every_draw_anew():
    mixings = expert_mixings(30, 4, 10, seed=0)
    assert len(set(mixings.start.tolist())) == 30
    assert not np.allclose(mixings.of(0)[0], mixings.of(1)[0])
    assert not np.allclose(mixings.of(0)[0], mixings.of(0)[1])


@pytest.mark.parametrize("n_experts", [6, 12])
def test_all_pairs_at_once_agree_with_one_at_a_time(n_experts):
    layers = np.random.default_rng(3).standard_normal((4, 40, n_experts))
    gram = gram_of_columns(layers - layers.mean(axis=2, keepdims=True))
    mixings = expert_mixings(4, n_experts, 20, seed=3)
    rows = dict(mixed_similarities(gram, mixings))
    assert sorted(rows) == [0, 1, 2]
    for a, b in ((0, 1), (0, 3), (2, 3)):
        alone = mixed_matches(gram, a, b, mixings).mean(axis=1)
        assert np.allclose(rows[a][:, b - a - 1], alone, atol=1e-6)
        assert np.allclose(alone, mean_matched(mixed_cosines(gram, a, b, mixings)))


def test_best_totals_are_those_of_assignments():
    cells = np.random.default_rng(4).standard_normal((5, 5, 30))
    totals = [assign(cells[:, :, i])[1].sum() for i in range(30)]
    assert np.allclose(best_totals(cells), totals)
