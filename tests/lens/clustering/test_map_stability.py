"""Maps beside chance: trustworthiness of unrelated layers, and three seeds compared."""

import numpy as np
import pytest
from scipy.spatial import procrustes

from lens.clustering.map_stability import (
    chance_overlap,
    disparities,
    layer_map_stability,
    map_stability,
    maps_agreement,
    nearest_layers,
    neighbour_overlap,
    random_trust,
    trust_null,
)
from lens.clustering.maps import (
    MapSettings,
    layer_map,
    map_of_distances,
    trust_neighbours,
    trustworthiness,
)
from lens.clustering.reference_sets import ClusterSettings, clustered_layers
from lens.errors import LensError
from lens.layers.references import REFERENCE_LABELS, Reference
from lens.layers.similarity import layer_distances
from lens.routers.gram import gram_of_columns
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(71)


def related(n_layers: int = 14) -> RouterSet:
    """Layers that drift slowly."""
    layer, layers = RNG.standard_normal((80, 4)), []
    for _ in range(n_layers):
        layer = 0.8 * layer + 0.6 * RNG.standard_normal((80, 4))
        layers.append(layer)
    return RouterSet(np.stack(layers).astype(np.float32))


def unrelated(n_layers: int = 14) -> RouterSet:
    return RouterSet(RNG.standard_normal((n_layers, 80, 4)).astype(np.float32))


def gram(routers: RouterSet):
    return gram_of_columns(routers.columns("canonical"))


def trust_of(routers: RouterSet, method: str = "mds", reference: Reference = "shared", **options):
    layers = clustered_layers(routers, ClusterSettings(reference=reference))
    return trust_null(layers, layer_map(routers, layers.gram, method), **options)


@pytest.mark.parametrize("reference", REFERENCE_LABELS)
def test_a_map_of_related_layers_is_more_trustworthy_than_of_drawn_ones(reference):
    found = trust_of(related(), reference=reference)
    assert found.reference == reference
    assert found.p == pytest.approx(0.01) and found.value > found.high > found.mean > found.random
    assert (found.draws, found.seed) == (99, 0)


@pytest.mark.parametrize("reference", ["shared", "unrelated"])
def test_maps_of_noise_are_not_beyond_drawn_ones_though_above_random_points(reference):
    p_values = []
    for seed in range(20):
        found = trust_of(unrelated(10), reference=reference, draws=39, seed=seed)
        p_values.append(found.p)
        assert found.mean > found.random
    assert np.mean(np.array(p_values) <= 0.05) <= 0.2
    assert 0.25 < np.mean(p_values) < 0.85


def test_pca_of_raw_routers_has_the_null_of_shuffled_coordinates():
    found = trust_of(related(), "pca", draws=39)
    assert found.p <= 0.05 and found.reference == "shuffled"


@pytest.mark.parametrize("n", [4, 9, 30])
def test_points_at_random_have_the_trustworthiness_of_random_ranks(n):
    k = trust_neighbours(n)
    values = []
    for _ in range(400):
        truth, shown = RNG.standard_normal((n, 5)), RNG.standard_normal((n, 2))
        distances = np.linalg.norm(truth[:, None] - truth[None], axis=2)
        values.append(trustworthiness(distances, shown, k))
    assert random_trust(n, k) == pytest.approx(np.mean(values), abs=0.02)


def test_disparity_is_scipys():
    first, second = RNG.standard_normal((2, 9, 2))
    orders = np.stack([np.arange(9), RNG.permutation(9)])
    expected = [procrustes(first, second[order])[2] for order in orders]
    np.testing.assert_allclose(disparities(first, second, orders), expected)


def test_a_map_turned_mirrored_moved_and_scaled_is_the_same_map():
    points = RNG.standard_normal((11, 3))
    turn = np.linalg.qr(RNG.standard_normal((3, 3)))[0]
    again = 4 * points @ turn + 7
    found = maps_agreement([points, again], [1, 2])
    assert found.disparity == pytest.approx(0, abs=1e-9)
    assert found.overlap == 1 and found.p == pytest.approx(1 / 200)
    assert found.disparity_chance > 0.5


def test_unrelated_maps_share_no_more_than_chance():
    overlaps, disparity, chance = [], [], []
    for _ in range(60):
        maps = RNG.standard_normal((2, 16, 2))
        overlaps.append(neighbour_overlap(*maps, 5))
        found = maps_agreement(list(maps), [1, 2], draws=49)
        disparity.append(found.disparity)
        chance.append(found.disparity_chance)
    assert np.mean(overlaps) == pytest.approx(chance_overlap(16, 5), abs=0.03)
    assert np.mean(disparity) == pytest.approx(np.mean(chance), abs=0.03)


@pytest.mark.parametrize("n, k", [(5, 2), (12, 5), (64, 5)])
def test_the_overlap_of_random_neighbours_is_that_of_random_choices(n, k):
    drawn = []
    for _ in range(4000):
        a, b = (set(RNG.permutation(n - 1)[:k].tolist()) for _ in range(2))
        drawn.append(len(a & b) / len(a | b))
    assert chance_overlap(n, k) == pytest.approx(np.mean(drawn), abs=0.015)


def test_nearest_layers_leave_out_the_layer_itself():
    near = nearest_layers(np.array([[0.0, 0], [1, 0], [1.5, 0], [9, 0]]), 1)
    assert np.flatnonzero(near[0]).tolist() == [1]
    assert near.sum() == 4 and not np.diagonal(near).any()


def test_three_seeds_of_tsne_agree_on_planted_groups_beyond_chance():
    kinds = np.arange(18) % 3
    layers = RNG.standard_normal((3, 80, 4))[kinds] + 0.3 * RNG.standard_normal((18, 80, 4))
    settings = ClusterSettings(reference="unrelated")
    clustered = clustered_layers(RouterSet(layers.astype(np.float32)), settings)
    found = layer_map_stability(clustered, "tsne", MapSettings(seed=5))
    assert found.seeds == (5, 6, 7)
    assert found.overlap > 2 * found.overlap_chance


def test_a_map_without_a_seed_cannot_be_compared_with_itself():
    routers = related(6)
    with pytest.raises(LensError, match="mds: this map has no seed to compare; expected one of"):
        map_stability(
            lambda seed: layer_map(routers, gram(routers), "mds", MapSettings(seed=seed)), 1
        )


def test_pca_and_mds_of_given_distances_are_one():
    distances = layer_distances(gram(related(8)))
    first, second = (map_of_distances(distances, method)[0] for method in ("pca", "mds"))
    np.testing.assert_array_equal(first, second)


def test_a_null_of_no_draws_is_refused():
    with pytest.raises(LensError, match="draws: found 0; expected 1 or more"):
        trust_of(related(5), draws=0)
