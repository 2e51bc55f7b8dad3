"""Support of branches: planted ones come back, those of noise hardly more than chance."""

import numpy as np
import pytest

from lens.clustering.branch_support import (
    BLOCK,
    BranchSupport,
    branch_support,
    branches,
    drawn_support,
    recurrences,
    resampled_trees,
    seconds_a_draw,
    set_seeds,
    sets_wanted,
)
from lens.clustering.reference_sets import ClusteredLayers, ClusterSettings, clustered_layers
from lens.clustering.tree_null import blocks
from lens.clustering.trees import layer_tree, tree_of_distances
from lens.errors import LensError
from lens.layers.references import REFERENCE_LABELS, Reference
from lens.layers.similarity import layer_distances
from lens.routers.gram import gram_of_columns
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(67)
GROUPS = np.array([0, 1, 0, 1, 0, 1, 0, 1])


def noise(n_layers: int, d_model: int = 60, n_experts: int = 4) -> np.ndarray:
    found = RNG.standard_normal((n_layers, d_model, n_experts)).astype(np.float32)
    return found - found.mean(axis=2, keepdims=True)


def layers_of(columns: np.ndarray, reference: Reference = "shuffled") -> ClusteredLayers:
    return clustered_layers(RouterSet(columns), ClusterSettings(reference=reference))


def found_in(
    columns: np.ndarray, reference: Reference = "shuffled", **options: int
) -> BranchSupport:
    layers = layers_of(columns, reference)
    return branch_support(layers, layer_tree(layers.gram), **options)


def planted() -> np.ndarray:
    return noise(2)[GROUPS] + 0.5 * noise(8)


def test_planted_groups_have_support_near_one_and_noise_within_them_little():
    found = found_in(planted(), draws=60)
    groups = [tuple(GROUPS == kind) for kind in (0, 1)]
    planted_ones = np.array([tuple(row) in groups for row in found.members])
    assert planted_ones.sum() == 2
    assert (found.support[planted_ones] > 0.95).all()
    assert found.stable[planted_ones].all()
    inside = found.support[:-1][~planted_ones[:-1]]
    assert inside.mean() < 0.6
    assert np.isnan(found.support[-1]) and not found.stable[-1]


@pytest.mark.parametrize("reference", REFERENCE_LABELS)
def test_planted_groups_have_more_support_than_branches_of_drawn_sets(reference):
    found = found_in(planted(), reference, draws=60)
    groups = [tuple(GROUPS == kind) for kind in (0, 1)]
    planted_ones = np.array([tuple(row) in groups for row in found.members])
    assert found.stable[planted_ones].all() and planted_ones.any()
    assert found.reference == reference


@pytest.mark.parametrize("reference", REFERENCE_LABELS)
def test_branches_of_noise_have_the_support_of_drawn_ones(reference):
    beyond, total = 0, 0
    for _ in range(12):
        found = found_in(noise(8), reference, draws=20)
        beyond, total = beyond + int(found.stable.sum()), total + 6
        assert 0 < found.level < 1 and found.sets == 10
    assert beyond / total < 0.15  # 5 % expected


def test_branches_are_the_layers_below_each_merge():
    distances = np.array([[0, 1, 4, 4], [1, 0, 4, 4], [4, 4, 0, 2], [4, 4, 2, 0]], float)
    members = branches(tree_of_distances(distances, "average").linkage)
    assert [np.flatnonzero(row).tolist() for row in members] == [[0, 1], [2, 3], [0, 1, 2, 3]]


def test_recurrences_count_the_trees_that_hold_the_same_set_of_layers():
    columns = noise(6)
    members = branches(layer_tree(gram_of_columns(columns)).linkage)
    counted = recurrences(members, columns, "cka", "average", 15, 3)
    expected = np.zeros(5, int)
    for linkage in resampled_trees(columns, "cka", "average", 15, 3):
        sets = {frozenset(np.flatnonzero(row).tolist()) for row in branches(linkage)}
        expected += [frozenset(np.flatnonzero(row).tolist()) in sets for row in members]
    np.testing.assert_array_equal(counted, expected)
    assert counted[-1] == 15


@pytest.mark.parametrize("metric", ["cka", "matched_cosine", "euclidean"])
def test_a_resampled_tree_is_that_of_repeated_coordinates(metric):
    columns = noise(5)
    linkage = next(resampled_trees(columns, metric, "complete", 1, 11))
    taken = np.random.default_rng(11).integers(0, 60, 60)
    distances = layer_distances(gram_of_columns(columns[:, taken]), metric)
    expected = tree_of_distances(distances, "complete").linkage
    np.testing.assert_allclose(linkage[:, 2], expected[:, 2], rtol=1e-4)


def test_support_does_not_depend_on_how_experts_are_labelled():
    columns = planted()
    relabelled = np.stack([layer[:, RNG.permutation(4)] for layer in columns])
    found, again = (found_in(these, draws=30) for these in (columns, relabelled))
    np.testing.assert_allclose(found.support[:-1], again.support[:-1], atol=0.04)


def test_blocks_add_up_to_the_whole():
    layers = layers_of(noise(6), "shared")
    columns, tree = layers.columns(), layer_tree(layers.gram)
    members = branches(tree.linkage)
    parts = [
        recurrences(members, columns, "cka", "average", n, own) for n, own in blocks(25, 2, BLOCK)
    ]
    found = branch_support(layers, tree, draws=25, seed=2)
    np.testing.assert_allclose(np.sum(parts, axis=0)[:-1] / 25, found.support[:-1])
    drawn = [drawn_support(layers, "average", 25, s) for s in set_seeds(2, 10)]
    np.testing.assert_array_equal(np.sort(np.concatenate(drawn)), found.drawn)
    assert found.level == pytest.approx(np.quantile(found.drawn, 0.95))


def test_two_layers_have_one_branch_and_nothing_to_compare():
    found = found_in(noise(2), draws=10)
    assert found.support.shape == (1,) and np.isnan(found.support[0])
    assert np.isnan(found.level) and found.sets == 0 and not found.stable.any()


def test_drawn_sets_give_about_a_hundred_branches():
    assert [sets_wanted(n) for n in (2, 3, 12, 64, 128)] == [0, 10, 10, 2, 1]


def test_numbers_of_draws_out_of_range_are_refused():
    with pytest.raises(LensError, match="draws: found 3; expected 10 to 10,000"):
        found_in(noise(3), draws=3)


def test_more_columns_are_known_to_take_longer():
    small, large = (
        seconds_a_draw(RouterSet(np.ones((n, 64, 4), np.float32) + noise(n, 64))) for n in (4, 40)
    )
    assert 0 < small < large < 0.1
