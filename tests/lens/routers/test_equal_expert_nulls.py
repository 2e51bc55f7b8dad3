"""Dealt weights and mixed layers: their moments, against draws made the long way."""

import numpy as np
import pytest

from lens.errors import LensError
from lens.routers.effective_dimension import unbiased_dimension
from lens.routers.exchanged_coordinates import exchange_moments, exchanged_grams
from lens.routers.expert_mixing import random_orthogonal, zero_sum_basis
from lens.routers.gram import gram_of_columns
from lens.routers.layer_mixtures import mixture_grams, shared_spectrum


def columns(seed: int, shape=(2, 120, 5), sigma: float = 0.7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layers = rng.standard_normal(shape) * np.exp(sigma * rng.standard_normal(shape[1]))[:, None]
    return layers - layers.mean(axis=2, keepdims=True)


def test_dealt_weights_have_the_moments_of_real_exchanges():
    layers, rng = columns(0), np.random.default_rng(1)
    fast = exchanged_grams(exchange_moments(layers), 4000, rng)[:, 0]
    dealt = rng.permuted(np.broadcast_to(layers[0], (4000, 120, 5)), axis=2)
    slow = dealt.transpose(0, 2, 1) @ dealt
    assert np.allclose(fast.sum(axis=2), 0, atol=1e-6)
    total = np.trace(slow[0])
    assert np.allclose(np.trace(fast, axis1=1, axis2=2), total)
    for part in ((0, 0), (0, 1)):
        one, other = fast[:, *part] / total, slow[:, *part] / total
        assert abs(one.mean() - other.mean()) < 0.003
        assert abs(one.std() / other.std() - 1) < 0.06
    largest = [np.einsum("dee->de", grams).max(axis=1) / total for grams in (fast, slow)]
    assert np.allclose(*(np.quantile(values, [0.05, 0.5, 0.95]) for values in largest), atol=0.006)


def test_two_experts_are_always_equal():
    grams = exchanged_grams(exchange_moments(columns(2, (1, 30, 2))), 9, np.random.default_rng(0))
    assert np.allclose(grams, grams[0])


def test_mixtures_of_layers_have_the_moments_of_real_ones():
    layers = columns(3, (4, 60, 5))
    gram, rng = gram_of_columns(layers), np.random.default_rng(4)
    fast = mixture_grams(shared_spectrum(gram), 5, 3000, rng)
    basis = zero_sum_basis(5)
    unit = layers / np.sqrt((layers**2).sum(axis=(1, 2)))[:, None, None]
    flat = np.concatenate(list(unit @ basis), axis=1)  # [d, 16]
    turns = random_orthogonal(rng, 3000, 16)[:, :, :4]
    slow = basis @ np.einsum("dna,dnb->dab", flat @ turns, flat @ turns) @ basis.T
    for part in ((0, 0), (0, 1)):
        assert abs(fast[:, *part].mean() - slow[:, *part].mean()) < 0.006
        assert abs(fast[:, *part].std() / slow[:, *part].std() - 1) < 0.06


def test_the_spectrum_of_very_many_columns_is_that_of_some_layers():
    gram = gram_of_columns(columns(5, (12, 40, 130), 0.0), held_columns=100)
    spectrum = shared_spectrum(gram)
    assert len(spectrum) == 7 * 129 and np.isclose(spectrum.sum(), 7)


@pytest.mark.parametrize(("sigma", "expected"), [(0.0, 400.0), (0.5, 400 * np.exp(-1.0))])
def test_the_unbiased_dimension_is_not_held_down_by_few_columns(sigma, expected):
    found = [gram_of_columns(columns(seed, (6, 400, 4), sigma)) for seed in range(12)]
    mean = np.mean([1 / unbiased_dimension(gram) for gram in found])
    assert abs(1 / mean / expected - 1) < 0.15


def test_the_unbiased_dimension_needs_two_layers():
    with pytest.raises(LensError, match="at least 2"):
        unbiased_dimension(gram_of_columns(columns(0, (1, 40, 4))))
