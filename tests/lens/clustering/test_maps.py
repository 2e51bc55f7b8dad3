"""Maps of layers."""

import numpy as np
import pytest

from lens.clustering.maps import METHODS, MapSettings, layer_map, trust_neighbours, trustworthiness
from lens.errors import LensError
from lens.layers.similarity import layer_distances
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(23)
L = 15


def drifting(n: int = L) -> RouterSet:
    """Two families of layers, each changing slowly."""
    layers = []
    for _ in range(2):
        layer = RNG.standard_normal((80, 6))
        for _ in range(n - n // 2):
            layer = 0.9 * layer + 0.4 * RNG.standard_normal((80, 6))
            layers.append(layer)
    return RouterSet(np.stack(layers[:n]).astype(np.float32))


ROUTERS = drifting()
GRAM = router_gram(ROUTERS)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_map_has_a_point_for_each_layer_and_is_the_same_every_time(method, dims):
    found = layer_map(ROUTERS, GRAM, method, MapSettings(dims=dims))
    assert found.points.shape == (L, dims) and np.isfinite(found.points).all()
    again = layer_map(ROUTERS, GRAM, method, MapSettings(dims=dims))
    np.testing.assert_array_equal(found.points, again.points)
    assert 0 <= found.trustworthiness <= 1
    assert (found.explained is None) == (method in ("tsne", "umap"))


@pytest.mark.parametrize("method", METHODS)
def test_maps_keep_planted_families_apart(method):
    points = layer_map(ROUTERS, GRAM, method, MapSettings(metric="cka")).points
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    family = np.arange(L) >= 8
    same = family[distances.argmin(axis=1)] == family
    assert same.mean() > 0.85


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [4, 5])
def test_four_layers_are_enough_for_every_map(method, n):
    routers = RouterSet(ROUTERS.routers[:n])
    for dims in (2, 3):
        assert layer_map(
            routers, router_gram(routers), method, MapSettings(dims=dims)
        ).points.shape == (n, dims)


def test_pca_is_scikit_learns_of_standardised_flattened_raw_routers():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    pca = PCA(2, svd_solver="full")
    expected = pca.fit_transform(StandardScaler().fit_transform(ROUTERS.routers.reshape(L, -1)))
    found = layer_map(ROUTERS, GRAM, "pca")
    np.testing.assert_allclose(np.abs(found.points), np.abs(expected), atol=0.02)
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, atol=1e-4)
    assert (found.points.max(axis=0) == np.abs(found.points).max(axis=0)).all()


def test_mds_of_all_dimensions_reproduces_the_distances():
    routers = RouterSet(ROUTERS.routers[:4])  # 4 points fit into 3 dimensions
    gram = router_gram(routers)
    found = layer_map(routers, gram, "mds", MapSettings(dims=3))
    shown = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)
    np.testing.assert_allclose(shown, layer_distances(gram), atol=1e-6)
    assert found.explained is not None and found.explained.sum() == pytest.approx(1)
    assert found.trustworthiness == 1


def test_the_classic_input_is_offered_for_every_map_of_distances():
    classic = layer_map(ROUTERS, GRAM, "mds", MapSettings(metric="classic"))
    pca = layer_map(ROUTERS, GRAM, "pca")
    # Classical scaling of Euclidean distances is principal component analysis.
    np.testing.assert_allclose(classic.points, pca.points, atol=0.05)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_trustworthiness_is_scikit_learns(k):
    from sklearn import manifold

    truth = RNG.standard_normal((L, 6))
    distances = np.linalg.norm(truth[:, None] - truth[None], axis=2)
    points = RNG.standard_normal((L, 2))
    expected = manifold.trustworthiness(truth, points, n_neighbors=k)
    assert trustworthiness(distances, points, k) == pytest.approx(expected)
    assert trustworthiness(distances, truth, k) == 1


def test_the_judging_neighbours_stay_below_half_of_the_layers():
    assert [trust_neighbours(n) for n in (4, 5, 11, 64)] == [1, 2, 5, 5]


def test_settings_say_what_was_used():
    assert layer_map(ROUTERS, GRAM, "tsne").settings["perplexity"] == pytest.approx(14 / 3)
    settings = layer_map(ROUTERS, GRAM, "umap", MapSettings(neighbours=50, seed=3)).settings
    assert (settings["neighbours"], settings["seed"]) == (L - 1, 3)


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("isomap", {}, "found 'isomap'; expected one of pca, mds, tsne, umap"),
        ("mds", {"dims": 4}, "dims: found 4; expected 2 or 3"),
        ("mds", {"metric": "nope"}, "metric: found 'nope'"),
        ("tsne", {"perplexity": 5}, "perplexity: found 5; expected more than 0 and at"),
        ("tsne", {"perplexity": 0}, "perplexity: found 0"),
        ("umap", {"neighbours": 1}, "neighbours: found 1; expected 2 or more"),
        ("umap", {"min_dist": 2}, "min_dist: found 2; expected 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(method, options, message):
    with pytest.raises(LensError, match=message):
        layer_map(ROUTERS, GRAM, method, MapSettings(**options))


def test_three_layers_are_too_few_for_a_map():
    routers = RouterSet(ROUTERS.routers[:3])
    with pytest.raises(LensError, match="needs at least 4 layers; this router set has 3"):
        layer_map(routers, router_gram(routers))
