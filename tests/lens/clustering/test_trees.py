"""Trees of layers, cuts, and their scores against scikit-learn."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet, dendrogram, linkage
from scipy.spatial.distance import pdist, squareform

from lens.clustering.trees import (
    LINKAGES,
    classic_tree,
    cut_tree,
    dendrogram_segments,
    depth_agreement,
    depth_terciles,
    layer_tree,
    silhouette,
    tree_of_distances,
)
from lens.errors import LensError
from lens.layers.similarity import layer_distances
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(19)
GROUPS = np.array([0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 2, 1])


def grouped() -> RouterSet:
    """12 layers of 3 kinds, in mixed order and with relabelled experts."""
    kinds = RNG.standard_normal((3, 100, 6))
    noisy = kinds[GROUPS] + 0.4 * RNG.standard_normal((12, 100, 6))
    return RouterSet(np.stack([layer[:, RNG.permutation(6)] for layer in noisy]).astype(np.float32))


ROUTERS = grouped()
GRAM = router_gram(ROUTERS)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@pytest.mark.parametrize("method", LINKAGES)
def test_a_cut_finds_planted_groups_of_relabelled_layers(method):
    tree = layer_tree(GRAM, method=method)
    labels = cut_tree(tree, 3)
    assert same_partition(labels, GROUPS)
    assert tree.cophenetic > 0.9
    # Numbered from the left.
    assert list(dict.fromkeys(labels[tree.order].tolist())) == [1, 2, 3]


def test_the_tree_is_scipys_linkage_of_the_distances():
    tree = layer_tree(GRAM, "principal_angles", "complete")
    distances = layer_distances(GRAM, "principal_angles")
    condensed = squareform(distances, checks=False)
    np.testing.assert_allclose(tree.linkage[:, 2], linkage(condensed, "complete")[:, 2])
    assert tree.cophenetic == pytest.approx(cophenet(tree.linkage, condensed)[0])
    np.testing.assert_array_equal(np.sort(tree.order), np.arange(12))


def test_the_classic_tree_is_ward_on_standardised_raw_weights():
    rows = ROUTERS.routers.reshape(12, -1).astype(np.float64)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    expected = linkage(pdist(rows), "ward")
    np.testing.assert_allclose(classic_tree(ROUTERS).linkage[:, 2], expected[:, 2], rtol=1e-4)


def test_neighbours_in_the_leaf_order_are_of_the_same_group():
    kinds = GROUPS[layer_tree(GRAM).order]
    assert np.count_nonzero(np.diff(kinds)) == 2


@pytest.mark.parametrize("k", [1, 5, 12])
def test_a_cut_gives_as_many_clusters_as_asked_for(k):
    assert set(cut_tree(layer_tree(GRAM), k)) == set(range(1, k + 1))


def test_cuts_linkages_and_layers_that_do_not_exist_are_refused():
    tree = layer_tree(GRAM)
    for k in (0, 13):
        with pytest.raises(LensError, match=f"clusters: found {k}; expected 1 to 12"):
            cut_tree(tree, k)
    with pytest.raises(LensError, match="found 'median'; expected one of average"):
        layer_tree(GRAM, method="median")
    with pytest.raises(LensError, match="needs at least 2 layers; this router set has 1"):
        layer_tree(router_gram(RouterSet(ROUTERS.routers[:1])))


def test_two_layers_make_a_tree_whose_cophenetic_correlation_is_undefined():
    tree = layer_tree(router_gram(RouterSet(ROUTERS.routers[:2])))
    assert np.isnan(tree.cophenetic)
    np.testing.assert_array_equal(cut_tree(tree, 2)[tree.order], [1, 2])


@pytest.mark.parametrize("k", range(2, 12))
def test_silhouettes_are_scikit_learns(k):
    from sklearn.metrics import silhouette_score

    tree = layer_tree(GRAM)
    labels = cut_tree(tree, k)
    expected = silhouette_score(tree.distances, labels, metric="precomputed")
    assert silhouette(tree.distances, labels) == pytest.approx(expected)


def test_silhouettes_of_one_cluster_and_of_single_layers_are_undefined():
    tree = layer_tree(GRAM)
    assert np.isnan(silhouette(tree.distances, cut_tree(tree, 1)))
    assert np.isnan(silhouette(tree.distances, cut_tree(tree, 12)))


def test_agreement_with_depth_is_scikit_learns_adjusted_rand_index():
    from sklearn.metrics import adjusted_rand_score

    for n in (1, 2, 7, 12, 64):
        for k in (1, 2, 3, 5):
            labels = RNG.integers(1, k + 1, n)
            expected = adjusted_rand_score(depth_terciles(n), labels)
            assert depth_agreement(labels) == pytest.approx(expected)
    assert depth_agreement(np.repeat([3, 1, 2], 4)) == 1


def test_terciles_are_as_equal_as_they_can_be():
    assert np.bincount(depth_terciles(64)).tolist() == [22, 21, 21]
    assert depth_terciles(6).tolist() == [0, 0, 1, 1, 2, 2]


def test_dendrogram_lines_are_those_scipy_draws():
    tree = layer_tree(GRAM)
    x0, y0, x1, y1 = dendrogram_segments(tree)
    assert len(x0) == 3 * 11
    drawn = dendrogram(tree.linkage, no_plot=True)
    assert drawn["leaves"] == tree.order.tolist()
    expected = set()
    for x, y in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        points = [(round((a - 5) / 10, 6), round(b, 6)) for a, b in zip(x, y, strict=True)]
        expected |= {frozenset(line) for line in zip(points, points[1:], strict=False)}
    found = {
        frozenset([(round(a, 6), round(b, 6)), (round(c, 6), round(d, 6))])
        for a, b, c, d in zip(x0, y0, x1, y1, strict=True)
    }
    assert found == expected


def test_layers_that_are_equally_far_apart_still_make_a_tree():
    distances = 1 - np.eye(5)
    tree = tree_of_distances(distances, "average")
    assert np.isnan(tree.cophenetic)
    assert set(cut_tree(tree, 5)) <= {1, 2, 3, 4, 5}
