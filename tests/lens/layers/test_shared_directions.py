"""Shared directions are taken away, and layers mixed from all layers keep them."""

import numpy as np
import pytest

from lens.errors import LensError
from lens.layers.shared_directions import (
    columns_without_shared,
    mixed_columns,
    mixed_layers,
    shared_null,
    without_shared,
)
from lens.layers.similarity import layer_similarity
from lens.routers.gram import gram_of_columns

SHAPE = (10, 128, 6)


def columns(seed: int, outlier: float = 1.0) -> np.ndarray:
    layers = np.random.default_rng(seed).standard_normal(SHAPE)
    layers[:, 5] *= outlier
    return layers - layers.mean(axis=2, keepdims=True)


def test_an_outlier_dimension_is_the_one_direction_taken_away_by_the_rule():
    with_it = without_shared(gram_of_columns(columns(0, 20.0)))
    assert with_it.directions == 1 and with_it.by_rule and with_it.share > 0.5
    assert 80 < with_it.dimensions < 180
    assert without_shared(gram_of_columns(columns(0))).directions == 0


@pytest.mark.parametrize("directions", [0, 1, 3])
def test_products_held_and_not_held_leave_the_same(directions):
    layers = columns(1, 12.0)
    held, not_held = (
        without_shared(gram_of_columns(layers, held_columns=most), directions) for most in (100, 0)
    )
    assert abs(held.share - not_held.share) < 0.01
    similar = [layer_similarity(found.gram, "cka") for found in (held, not_held)]
    assert np.allclose(*similar, atol=0.01)


def test_mixed_layers_keep_the_second_moment_of_all():
    rest = without_shared(gram_of_columns(columns(2)), 0).gram
    drawn = next(mixed_layers(rest, 1, seed=0))
    for gram in (rest, drawn):
        assert np.allclose(gram.held.sum(axis=1), 0, atol=1e-5)
    spectra = [np.linalg.eigvalsh(gram.held.reshape(60, 60)) for gram in (rest, drawn)]
    assert np.allclose(*spectra, atol=1e-5)
    assert drawn.n_layers == rest.n_layers


def test_columns_are_left_and_mixed_as_their_products_are():
    layers = columns(6, 12.0)
    rest = columns_without_shared(layers, 1)
    products = without_shared(gram_of_columns(layers), 1).gram
    assert np.allclose(gram_of_columns(rest).held, products.held, atol=1e-3)
    mixed = mixed_columns(rest, seed=0)
    assert np.allclose(mixed.sum(axis=2), 0, atol=1e-5) and mixed.shape == rest.shape
    moments = [np.einsum("lde,lfe->df", one, one) for one in (rest, mixed)]
    assert np.allclose(*moments, atol=1e-4)
    assert abs(layer_similarity(gram_of_columns(mixed), "cka")[0, 1]) < 0.3


def test_a_planted_pair_is_found_beside_an_outlier():
    layers = columns(3, 20.0)
    rng = np.random.default_rng(4)
    layers[7] = 0.7 * layers[2][:, rng.permutation(6)] + 0.7 * layers[7]
    null = shared_null(without_shared(gram_of_columns(layers)), draws=60)
    assert null.q[2, 7] == null.q[7, 2] < 0.01
    assert null.found() == 1 and np.isnan(null.q[3, 3])
    assert "shared" in null.method or "share" in null.method


def test_more_directions_than_layers_can_tell_are_refused():
    gram = gram_of_columns(columns(5))
    with pytest.raises(LensError, match="expected 0 to 6"):
        without_shared(gram, 7)
