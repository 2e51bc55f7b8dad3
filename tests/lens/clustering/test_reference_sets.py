"""Drawn sets keep what their reference keeps, and are the same pair by pair as whole."""

import numpy as np
import pytest

from lens.clustering import reference_sets
from lens.clustering.reference_sets import (
    ClusteredLayers,
    ClusterSettings,
    clustered_layers,
    default_reference,
    drawn_columns,
    pair_moments,
)
from lens.clustering.tree_null import drawn_scores
from lens.errors import LensError
from lens.layers.similarity import LAYER_METRICS, layer_similarity
from lens.routers.gram import gram_of_columns, router_gram
from lens.routers.router_set import RouterSet
from tests.lens.router_noise import noise

SHAPE = (20, 200, 6)


def layers_of(kind: str = "isotropic", shape=SHAPE, **settings) -> ClusteredLayers:
    return clustered_layers(noise(kind, 3, shape), ClusterSettings(**settings))


@pytest.mark.parametrize(
    ("kind", "reference", "metric"),
    [
        ("isotropic", "shared", "cka"),
        ("isotropic", "shared", "matched_cosine"),
        ("shared γ, σ 0.5", "shared", "cka"),
        *(("isotropic", "unrelated", metric) for metric in LAYER_METRICS),
        ("own γ, σ 0.5", "shuffled", "cka"),
    ],
)
def test_sets_drawn_pair_by_pair_are_clustered_as_whole_ones(kind, reference, metric, monkeypatch):
    layers = layers_of(kind, metric=metric, reference=reference, directions=0)
    assert not layers.pairwise
    whole = drawn_scores(layers, "average", 100, 1)
    monkeypatch.setattr(reference_sets, "WHOLE_COLUMNS", 1)
    monkeypatch.setattr(reference_sets, "MIXED_COLUMNS", 60)  # twelve layers
    assert layers.pairwise and "pair by pair" in layers.words
    pairs = drawn_scores(layers, "average", 100, 2)
    spread = np.maximum(whole.std(axis=0), 1e-12)
    # What hangs together in triples of pairs is missing: cophenetic correlations come out lower.
    assert (np.abs(pairs.mean(axis=0) - whole.mean(axis=0)) < 0.75 * spread).all()
    np.testing.assert_allclose(pairs.std(axis=0), spread, rtol=0.45)


def test_small_sets_need_no_moments_and_large_ones_have_them_for_every_pair():
    assert pair_moments(layers_of(shape=(4, 48, 4))) is None
    found = pair_moments(layers_of(shape=(140, 16, 4), reference="unrelated"))
    assert found is not None and found.mean.shape == (140 * 139 // 2,)
    assert found.mean.mean() == pytest.approx(3 / 16, rel=0.3) and found.skewness > 0


def test_what_a_layer_adds_is_told_from_what_a_pair_adds():
    rng = np.random.default_rng(5)
    first, second = np.triu_indices(8, 1)
    similarity = np.zeros((400, 8, 8))
    own = 0.3 * rng.standard_normal((400, 8))
    noise_of_pairs = 0.2 * (rng.gamma(4, size=(400, 28)) - 4) / 2  # of skewness 1
    values = 0.5 + own[:, first] + own[:, second] + noise_of_pairs
    similarity[:, first, second] = similarity[:, second, first] = values
    found = reference_sets._layers_and_pairs(similarity)
    assert found.layer_sd == pytest.approx(0.3, rel=0.05)
    assert found.sd == pytest.approx(0.2, rel=0.03)
    assert found.skewness == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("reference", ["shared", "unrelated", "shuffled"])
def test_drawn_columns_keep_what_the_reference_keeps(reference):
    layers = layers_of("shared γ, σ 1", (5, 60, 4), reference=reference, directions=1)
    columns = layers.columns().astype(np.float64)
    drawn = drawn_columns(layers, columns, 3)
    before, after = (layer_similarity(gram_of_columns(these), "cka") for these in (columns, drawn))
    assert np.abs(before - after).max() > 0.02
    kept = "lde,lfe->df" if reference == "shared" else "lde,ldf->lef"  # second moment, own angles
    first, second = (np.einsum(kept, these, these) for these in (columns, drawn))
    np.testing.assert_allclose(first, second, atol=1e-8 * np.abs(first).max())
    if reference == "shuffled":
        np.testing.assert_array_equal(np.sort(drawn, axis=1), np.sort(columns, axis=1))


def test_what_is_clustered_under_shared_directions_is_what_they_leave():
    routers = noise("outlier × 15", 3, (12, 96, 6))
    kept = clustered_layers(routers, ClusterSettings(directions=0))
    np.testing.assert_allclose(
        layer_similarity(kept.gram, "cka"), layer_similarity(router_gram(routers), "cka"), atol=1e-6
    )
    assert kept.unchanged and kept.words == "every layer mixed at random from all layers"
    less = clustered_layers(routers, ClusterSettings())
    assert less.shared is not None and less.shared.directions == 1
    assert layer_similarity(less.gram, "cka").mean() < layer_similarity(kept.gram, "cka").mean() / 2
    columns = gram_of_columns(less.columns())
    np.testing.assert_allclose(
        layer_similarity(columns, "cka"), layer_similarity(less.gram, "cka"), atol=1e-4
    )
    assert "the largest shared direction taken away before" in less.words


def test_layers_of_which_no_shared_directions_are_known_are_refused():
    assert default_reference(2, "canonical") == default_reference(9, "raw") == "unrelated"
    weights = np.random.default_rng(0).standard_normal((4, 30, 3)).astype(np.float32)
    with pytest.raises(LensError, match="reference: found 'shared' for 4 layers in the raw view"):
        clustered_layers(RouterSet(weights), ClusterSettings(view="raw"))
