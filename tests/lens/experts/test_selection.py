"""Breadth: the probability of being selected under an isotropic prior."""

import numpy as np
import pytest

from lens.errors import LensError
from lens.experts.selection import breadth
from lens.routers.gram import gram_of_columns, router_gram
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(13)


def gram_of(columns: np.ndarray):
    columns = np.asarray(columns, np.float32)
    return gram_of_columns(columns - columns.mean(axis=2, keepdims=True))


def uneven(n_experts: int, d_model: int = 40) -> np.ndarray:
    columns = RNG.standard_normal((1, d_model, n_experts)) * np.geomspace(0.5, 2, n_experts)
    columns[0, :, 1] += 1.5 * columns[0, :, 0]
    return columns


@pytest.mark.parametrize("n_experts, top_k", [(3, 1), (4, 1), (5, 2), (8, 1), (8, 2)])
def test_sampled_and_orthant_probabilities_agree_to_2_thousandths_and_sum_to_top_k(
    n_experts, top_k
):
    gram = gram_of(uneven(n_experts))
    sampled, exact = breadth(gram, top_k, method="sample"), breadth(gram, top_k)
    np.testing.assert_allclose(sampled.probability, exact.probability, atol=0.002)
    assert sampled.probability.sum() == pytest.approx(top_k, abs=1e-6)
    assert exact.probability.sum() == pytest.approx(top_k, abs=1e-3)
    assert np.ptp(exact.probability) > 0.1
    assert "sample of 65,536 points" in sampled.method and "orthant" in exact.method


def test_two_experts_are_selected_equally_often_whatever_their_lengths():
    # Only the sign of one difference decides, and it is symmetric.
    gram = gram_of(RNG.standard_normal((3, 20, 2)) * [1.0, 9.0])
    for method in ("orthants", "sample"):
        found = breadth(gram, 1, method=method)
        np.testing.assert_allclose(found.probability, 0.5, atol=1e-6)


def test_half_of_the_experts_are_selected_equally_often_whatever_their_lengths():
    found = breadth(gram_of(uneven(4)), 2, method="sample")
    np.testing.assert_allclose(found.probability, 0.5, atol=1e-6)
    exact = breadth(gram_of(uneven(4)), 2)
    np.testing.assert_allclose(exact.probability, 0.5, atol=5e-4)


def test_three_experts_are_first_as_often_as_their_angle_is_wide():
    # z = (a, b, c) with b and c on the plane: P(first) is the angle of the cone over 2π.
    corners = np.array([[1.0, 0.0], [-0.2, 0.9], [-0.6, -0.8]]).T
    found = breadth(gram_of(corners[None]), 1, method="sample").probability[0]
    angles = []
    for k in range(3):
        edges = [corners[:, k] - corners[:, m] for m in range(3) if m != k]
        cosine = edges[0] @ edges[1] / np.linalg.norm(edges[0]) / np.linalg.norm(edges[1])
        angles.append((np.pi - np.arccos(cosine)) / (2 * np.pi))
    np.testing.assert_allclose(found, angles, atol=0.002)
    np.testing.assert_allclose(breadth(gram_of(corners[None]), 1).probability[0], angles, atol=1e-3)


def test_equally_long_and_unrelated_experts_are_equally_broad():
    for n_experts, top_k in [(8, 2), (4, 2), (32, 4)]:
        found = breadth(gram_of(np.eye(n_experts)[None]), top_k)
        np.testing.assert_allclose(found.probability, top_k / n_experts, atol=1e-3)


def test_a_shared_column_and_a_scale_per_layer_change_nothing():
    columns = RNG.standard_normal((2, 60, 6)) * np.linspace(0.5, 2, 6)
    before = breadth(gram_of(columns), 2).probability
    shared = columns * np.array([0.01, 40.0])[:, None, None] + RNG.standard_normal((2, 60, 1))
    np.testing.assert_allclose(breadth(gram_of(shared), 2).probability, before, atol=1e-3)


def test_relabelling_experts_relabels_their_breadth():
    columns = uneven(6)
    order = RNG.permutation(6)
    before = breadth(gram_of(columns), 2).probability
    after = breadth(gram_of(columns[:, :, order]), 2).probability
    np.testing.assert_allclose(after, before[:, order], atol=0.003)


def test_the_same_routers_give_the_same_numbers_every_time():
    gram = gram_of(uneven(8))
    np.testing.assert_array_equal(breadth(gram, 2).probability, breadth(gram, 2).probability)


def test_breadth_is_the_share_of_random_residual_streams_that_select_the_expert():
    routers = RouterSet(uneven(20).astype(np.float32), top_k=3)
    columns = routers.columns()[0].astype(np.float64)
    logits = RNG.standard_normal((60_000, 40)) @ columns
    chosen = np.argsort(-logits, axis=1)[:, :3]
    expected = np.bincount(chosen.ravel(), minlength=20) / len(logits)
    found = breadth(router_gram(routers), 3)
    np.testing.assert_allclose(found.probability[0], expected, atol=0.012)
    assert found.probability.sum() == pytest.approx(3, abs=1e-6)


def test_biases_shift_the_choice_and_both_methods_agree_on_it():
    columns = RNG.standard_normal((1, 30, 5)) / np.sqrt(30)
    gram = gram_of(columns)
    biases = np.array([[0.5, 0, 0, 0, -0.5]], np.float32)
    sampled = breadth(gram, 2, biases=biases, method="sample")
    exact = breadth(gram, 2, biases=biases)
    np.testing.assert_allclose(sampled.probability, exact.probability, atol=0.008)
    plain = breadth(gram, 2).probability
    assert sampled.probability[0, 0] > plain[0, 0] + 0.05
    assert sampled.probability[0, 4] < plain[0, 4] - 0.05


def test_experts_that_are_equal_share_a_selection_without_breaking_the_sum():
    columns = uneven(20)
    columns[:, :, 3] = columns[:, :, 7]
    assert breadth(gram_of(columns), 2).probability.sum() == pytest.approx(2, abs=1e-6)


def test_few_experts_that_coincide_are_sampled():
    columns = uneven(6)
    columns[:, :, 3] = columns[:, :, 5]
    found = breadth(gram_of(columns), 2)
    assert found.method.startswith("sample") and found.probability.sum() == pytest.approx(2)


def test_selecting_all_experts_selects_each():
    found = breadth(gram_of(uneven(4)), 4)
    np.testing.assert_array_equal(found.probability, 1)


def test_what_cannot_be_computed_is_refused():
    gram = gram_of(uneven(4))
    with pytest.raises(LensError, match="top_k: found 5; expected 1 to 4"):
        breadth(gram, 5)
    with pytest.raises(LensError, match="found top 3 of 4. Use the sampled method"):
        breadth(gram, 3, method="orthants")
