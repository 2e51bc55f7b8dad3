"""Layer similarity against plain loops over d_model, and what leaves it unchanged."""

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment

from lens.errors import LensError
from lens.layers.similarity import (
    LAYER_METRICS,
    adjacent_layers,
    layer_distances,
    layer_pair,
    layer_similarity,
    pair_similarity,
)
from lens.routers.gram import gram_of_columns, router_gram
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(7)
L, D, E = 6, 50, 5
LABEL_FREE = ["cka", "matched_cosine", "principal_angles"]


def related_layers(seed: int = 0) -> np.ndarray:
    """Layers that share more the closer they are, columns of unequal length."""
    rng = np.random.default_rng(seed)
    layers = [rng.standard_normal((D, E))]
    for _ in range(L - 1):
        layers.append(0.8 * layers[-1] + 0.6 * rng.standard_normal((D, E)))
    return (np.stack(layers) * np.linspace(0.6, 1.4, E)).astype(np.float32)


ROUTERS = RouterSet(related_layers(), norm_scales=RNG.uniform(0.5, 2, (L, D)).astype(np.float32))


def slow(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    """The metric of two routers, from its definition on the weights."""
    if metric == "cka":
        cross = np.linalg.norm(a.T @ b) ** 2
        return cross / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    if metric == "matched_cosine":
        unit_a, unit_b = a / np.linalg.norm(a, axis=0), b / np.linalg.norm(b, axis=0)
        cosines = unit_a.T @ unit_b
        return cosines[linear_sum_assignment(-cosines)].mean()
    if metric == "principal_angles":
        rank = np.linalg.matrix_rank(a, tol=1e-4)
        # A basis of the span, since the angles of dependent columns are not defined.
        basis_a, basis_b = (np.linalg.svd(x)[0][:, :rank] for x in (a, b))
        return float((np.cos(subspace_angles(basis_a, basis_b)) ** 2).sum() / rank)
    if metric == "cosine":
        return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    if metric == "correlation":
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    return float(1 / (1 + np.linalg.norm(a - b)))


@pytest.mark.parametrize("view", ["canonical", "raw"])
@pytest.mark.parametrize("metric", LAYER_METRICS)
def test_a_metric_is_what_its_formula_says_of_the_weights(metric, view):
    columns = ROUTERS.columns(view).astype(np.float64)
    found = layer_similarity(router_gram(ROUTERS, view), metric)
    expected = [[slow(metric, a, b) for b in columns] for a in columns]
    np.testing.assert_allclose(found, expected, atol=2e-5 if metric != "euclidean" else 2e-3)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 1)
    low, high = LAYER_METRICS[metric].domain
    assert low <= found.min() and found.max() <= high


def relabelled(routers: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([router[:, rng.permutation(E)] for router in routers])


@pytest.mark.parametrize("metric", LABEL_FREE)
def test_relabelling_experts_changes_no_label_free_metric(metric):
    before = layer_similarity(router_gram(RouterSet(related_layers())), metric)
    after = layer_similarity(router_gram(RouterSet(relabelled(related_layers()))), metric)
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean"])
def test_relabelling_experts_changes_the_classic_metrics(metric):
    before = layer_similarity(router_gram(RouterSet(related_layers())), metric)
    after = layer_similarity(router_gram(RouterSet(relabelled(related_layers()))), metric)
    assert np.abs(after - before).max() > (0.005 if metric == "euclidean" else 0.1)


@pytest.mark.parametrize("metric", LAYER_METRICS)
def test_a_shared_column_changes_nothing_in_the_canonical_view(metric):
    shared = related_layers() + 2 * RNG.standard_normal((L, D, 1)).astype(np.float32)
    before = layer_similarity(router_gram(RouterSet(related_layers())), metric)
    after = layer_similarity(router_gram(RouterSet(shared)), metric)
    np.testing.assert_allclose(after, before, atol=1e-4)


@pytest.mark.parametrize("metric", [m for m in LAYER_METRICS if m != "euclidean"])
def test_a_positive_scale_per_layer_changes_nothing(metric):
    scaled = related_layers() * RNG.uniform(0.01, 100, (L, 1, 1)).astype(np.float32)
    before = layer_similarity(router_gram(RouterSet(related_layers())), metric)
    after = layer_similarity(router_gram(RouterSet(scaled)), metric)
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("metric", ["cka", "matched_cosine", "principal_angles", "cosine"])
def test_rotating_the_residual_stream_changes_nothing(metric):
    rotation = np.linalg.qr(RNG.standard_normal((D, D)))[0]
    columns = related_layers().astype(np.float64)
    before = layer_similarity(gram_of_columns(columns), metric)
    after = layer_similarity(gram_of_columns(np.einsum("fd,lde->lfe", rotation, columns)), metric)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_relabelled_copy_has_a_cka_of_1_and_a_flattened_cosine_far_below():
    a = RNG.standard_normal((400, E))
    copy = RouterSet(np.stack([a, a[:, [1, 2, 3, 4, 0]]]).astype(np.float32))
    gram = router_gram(copy)
    for metric in LABEL_FREE:
        assert layer_similarity(gram, metric)[0, 1] == pytest.approx(1, abs=1e-5)
    assert layer_similarity(gram, "cosine")[0, 1] < 0.1


def test_unrelated_routers_that_share_an_offset_look_alike_raw_and_not_canonically():
    offset = 2 * RNG.standard_normal((6144, 1))
    pair = RouterSet((RNG.standard_normal((2, 6144, 8)) + offset).astype(np.float32))
    raw = layer_similarity(router_gram(pair, "raw"), "cosine")[0, 1]
    canonical = layer_similarity(router_gram(pair), "cosine")[0, 1]
    assert raw == pytest.approx(0.8, abs=0.02)
    assert abs(canonical) < 0.03


def test_distances_of_cka_are_euclidean():
    distances = layer_distances(router_gram(ROUTERS))
    centring = np.eye(L) - 1 / L
    assert np.linalg.eigvalsh(-centring @ distances**2 @ centring / 2).min() > -1e-6
    np.testing.assert_array_equal(np.diag(distances), 0)


def test_euclidean_distances_are_those_of_the_weights():
    columns = ROUTERS.columns().reshape(L, -1)
    expected = np.linalg.norm(columns[:, None] - columns[None], axis=2)
    found = layer_distances(router_gram(ROUTERS), "euclidean")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_an_unknown_metric_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(LensError, match="found 'angle'; expected one of cka, matched_cosine"):
        layer_similarity(router_gram(ROUTERS), "angle")


def test_pair_similarity_of_blocks_equals_the_matrix_of_all_layers():
    gram = router_gram(ROUTERS)
    for metric in LAYER_METRICS:
        found = pair_similarity(metric, gram.own[:1], gram.own[3:4], gram.pair(0, 3)[None])
        assert found[0] == pytest.approx(layer_similarity(gram, metric)[0, 3], abs=1e-12)


def test_adjacent_layers_are_the_first_off_diagonal():
    gram = router_gram(ROUTERS)
    found = adjacent_layers(gram)
    similarity = layer_similarity(gram)
    np.testing.assert_array_equal(found.pairs, [[i, i + 1] for i in range(L - 1)])
    np.testing.assert_array_equal(found.similarity, [similarity[i, i + 1] for i in range(L - 1)])
    rest = [similarity[a, b] for a in range(L) for b in range(a + 2, L)]
    assert found.non_adjacent_mean == pytest.approx(np.mean(rest))
    columns = ROUTERS.columns().astype(np.float64)
    change = np.linalg.norm(np.diff(columns, axis=0), axis=(1, 2))
    np.testing.assert_allclose(found.change_l2, change, rtol=1e-4)


def test_the_classic_rule_marks_a_planted_break_and_about_3_of_62_pairs_of_pure_noise():
    base = RNG.standard_normal((200, E))
    layers = [base + 0.1 * RNG.standard_normal((200, E)) for _ in range(20)]
    other = RNG.standard_normal((200, E))
    layers += [other + 0.1 * RNG.standard_normal((200, E)) for _ in range(20)]
    broken = router_gram(RouterSet(np.stack(layers).astype(np.float32)))
    # Into the unlike pair, and out of it again.
    assert np.flatnonzero(adjacent_layers(broken).classic_transitions).tolist() == [19, 20]
    counts = [
        adjacent_layers(
            router_gram(RouterSet(RNG.standard_normal((64, 64, 8)).astype(np.float32)))
        ).classic_transitions.sum()
        for _ in range(30)
    ]
    assert 1.8 < np.mean(counts) < 3.8


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_two_and_three_layers_have_neighbours_as_far_as_there_are_any(n):
    gram = router_gram(RouterSet(related_layers()[:n]))
    found = adjacent_layers(gram)
    assert found.similarity.shape == (n - 1,) and found.pairs.shape == (n - 1, 2)
    assert np.isnan(found.non_adjacent_mean) == (n < 3)


@pytest.mark.parametrize("view, n_angles", [("canonical", E - 1), ("raw", E)])
def test_a_pair_holds_what_its_cell_sums_up(view, n_angles):
    gram = router_gram(ROUTERS, view)
    pair = layer_pair(gram, 1, 4)
    a, b = ROUTERS.columns(view).astype(np.float64)[[1, 4]]
    assert pair.cka == pytest.approx(layer_similarity(gram)[1, 4])
    assert pair.matched.mean() == pytest.approx(layer_similarity(gram, "matched_cosine")[1, 4])
    np.testing.assert_array_equal(pair.cosines[np.arange(E), pair.partner], pair.matched)
    basis_a, basis_b = (np.linalg.svd(x)[0][:, :n_angles] for x in (a, b))
    expected = np.sort(np.cos(subspace_angles(basis_a, basis_b)))[::-1]
    np.testing.assert_allclose(pair.angles, expected, atol=1e-4)
    with pytest.raises(LensError, match="row 6 was asked for; expected 0 to 5"):
        layer_pair(gram, 0, L)


@pytest.mark.parametrize("metric", LAYER_METRICS)
@pytest.mark.parametrize("view", ["canonical", "raw"])
def test_sets_too_large_to_hold_have_the_same_similarities(metric, view):
    held, asked = router_gram(ROUTERS, view), router_gram(ROUTERS, view, held_columns=0)
    np.testing.assert_allclose(
        layer_similarity(asked, metric), layer_similarity(held, metric), atol=2e-5
    )
