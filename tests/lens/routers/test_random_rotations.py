"""Layers turned at random, and layers with shuffled coordinates."""

import numpy as np
import pytest

from lens.routers.gram import gram_of_columns
from lens.routers.random_rotations import (
    corners,
    spectrum,
    unrelated_sets,
)
from lens.routers.shuffled_coordinates import permuted_sets

RNG = np.random.default_rng(43)


def canonical(*shape: int) -> np.ndarray:
    columns = RNG.standard_normal(shape).astype(np.float32)
    columns *= RNG.uniform(0.5, 2, (shape[0], 1, shape[2])).astype(np.float32)
    return columns - columns.mean(axis=2, keepdims=True)


@pytest.mark.parametrize("d_model, rows, columns", [(12, 5, 4), (7, 6, 6), (100, 3, 8)])
def test_corners_are_those_of_whole_random_rotations(d_model, rows, columns):
    found = corners(RNG, 4000, d_model, rows, columns)
    whole = np.linalg.qr(RNG.standard_normal((4000, d_model, d_model)))[0]
    whole *= RNG.choice([-1, 1], (4000, 1, d_model))  # a QR factor's signs are not random
    expected = whole[:, :rows, :columns]
    for moment in (lambda c: c**2, lambda c: c**4, lambda c: c[:, :2, :2] * c[:, 1:3, 1:3]):
        np.testing.assert_allclose(
            moment(found).mean(), moment(expected).mean(), atol=4 / (d_model * 60)
        )
    sizes = [np.linalg.norm(c, ord=2, axis=(1, 2)) for c in (found, expected)]
    assert sizes[0].mean() == pytest.approx(sizes[1].mean(), rel=0.02)
    assert sizes[0].max() <= 1 + 1e-9


def test_a_corner_of_all_rows_has_orthonormal_columns():
    found = corners(RNG, 50, 5, 5, 3)
    np.testing.assert_allclose(
        found.transpose(0, 2, 1) @ found, np.tile(np.eye(3), (50, 1, 1)), atol=1e-9
    )


def test_roots_give_back_each_layers_own_products():
    gram = gram_of_columns(canonical(3, 30, 5))
    values, roots = spectrum(gram.own, 30)
    assert roots.shape == (3, 5, 4)  # the mean column was taken off
    np.testing.assert_allclose(roots @ roots.transpose(0, 2, 1), gram.own, atol=1e-3)
    np.testing.assert_allclose(values.sum(axis=1), np.einsum("lee->l", gram.own), rtol=1e-4)


def turned(columns: np.ndarray) -> np.ndarray:
    """Every layer turned in full dimensions, the slow way."""
    rotations = np.linalg.qr(RNG.standard_normal((len(columns), *columns.shape[1:2] * 2)))[0]
    return rotations @ columns


@pytest.mark.parametrize("d_model", [4, 20])
def test_drawn_sets_keep_each_layer_and_relate_layers_as_rotations_in_full_do(d_model):
    columns = canonical(3, d_model, 5)
    gram = gram_of_columns(columns)
    drawn = [found.row(0)[:, 1] for found in unrelated_sets(gram, 1500, 1)]
    slow = [gram_of_columns(turned(columns)).pair(0, 1) for _ in range(1500)]
    squares = np.square(drawn).mean(axis=0)
    np.testing.assert_allclose(squares, np.square(slow).mean(axis=0), rtol=0.25)
    assert np.abs(np.mean(drawn, axis=0)).max() < 5 * np.sqrt(squares.max() / 1500)
    found = next(unrelated_sets(gram, 1, 1))
    np.testing.assert_array_equal(found.own, gram.own)
    np.testing.assert_allclose(found.pair(1, 1), gram.own[1])


def test_a_drawn_set_is_one_that_could_exist():
    gram = gram_of_columns(canonical(6, 20, 5))
    for found in unrelated_sets(gram, 5, 2):
        flat = found.held.reshape(30, 30)
        np.testing.assert_allclose(flat, flat.T, atol=1e-9)
        values = np.linalg.eigvalsh(flat)
        assert values.min() > -1e-6 * values.max()
        assert (values > 1e-6 * values.max()).sum() <= 20  # no more directions than d_model


def test_sets_of_many_columns_are_drawn_in_full(monkeypatch):
    gram = gram_of_columns(canonical(4, 30, 5))
    expected = np.mean([g.pair(0, 1) ** 2 for g in unrelated_sets(gram, 800, 3)], axis=0)
    monkeypatch.setattr("lens.routers.random_rotations.HELD_COLUMNS", 3)
    sets = list(unrelated_sets(gram, 800, 3))
    assert sets[0].held is None
    found = np.mean([g.pair(0, 1) ** 2 for g in sets], axis=0)
    np.testing.assert_allclose(found, expected, rtol=0.3)


def test_shuffled_coordinates_keep_each_layer_and_lose_what_layers_share():
    shared = RNG.standard_normal((1, 40, 5))
    columns = (shared + 0.1 * RNG.standard_normal((3, 40, 5))).astype(np.float32)
    columns -= columns.mean(axis=2, keepdims=True)
    gram = gram_of_columns(columns)
    assert gram.cosine_pair(0, 1).max() > 0.9
    largest = []
    for found in permuted_sets(columns, 40, 0):
        np.testing.assert_allclose(found.own, gram.own, rtol=1e-4, atol=1e-4)
        largest.append(np.abs(found.cosine_pair(0, 1)).mean())
    assert np.mean(largest) == pytest.approx(np.sqrt(2 / np.pi / 40), rel=0.25)


def test_draws_follow_their_seed():
    gram = gram_of_columns(canonical(3, 20, 4))
    first, again, other = (next(unrelated_sets(gram, 1, seed)).held for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
