"""Moments of router logits, and the loads they predict."""

import numpy as np
import pytest

from lens.errors import LensError
from lens.experts.selection import breadth
from lens.traces.logit_moments import (
    compare_loads,
    load_prediction,
    logit_moments,
    selection_under,
)
from tests.lens.traces.choices import routed


def trace_of(logits, top_k=2):
    logits = np.asarray(logits)
    return routed(np.argsort(-logits, axis=-1)[..., :top_k], logits.shape[2], logits)


def normal_logits(seed, n_tokens=400, n_layers=2, n_experts=8, mean=0.0):
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((n_layers, n_experts, n_experts))
    return mean + rng.standard_normal((n_layers, n_tokens, n_experts)) @ factor


def test_moments_are_those_of_numpy():
    logits = normal_logits(0)
    found = logit_moments(logits)
    np.testing.assert_allclose(found.mean, logits.mean(axis=1))
    for layer in range(2):
        np.testing.assert_allclose(found.covariance[layer], np.cov(logits[layer].T))


def test_one_token_has_no_covariance():
    with pytest.raises(LensError, match="found 1 tokens"):
        _ = logit_moments(normal_logits(0, 1)).covariance


# --- selection ------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_selection_under_agrees_with_brute_force(top_k):
    moments = logit_moments(normal_logits(3, 50, 1, mean=np.linspace(0, 2, 8)))
    rng = np.random.default_rng(1)
    z = rng.multivariate_normal(moments.mean[0], moments.covariance[0], 200_000)
    chosen = np.argsort(-z, axis=1)[:, :top_k]
    expected = np.bincount(chosen.ravel(), minlength=8) / len(z)
    found = selection_under(moments.mean, moments.covariance, top_k)
    np.testing.assert_allclose(found.probability[0], expected, atol=0.005)
    assert found.probability.sum() == pytest.approx(top_k, abs=0.002)
    assert "sample of 65,536" in found.method


def test_selection_of_one_in_two_is_a_normal_probability():
    from scipy.stats import norm

    found = selection_under(np.array([[1.0, 0.0]]), np.eye(2)[None], 1).probability
    assert found[0, 0] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.003)


def test_with_the_gram_matrix_and_no_mean_it_is_the_breadth():
    from lens.routers.gram import gram_of_columns

    columns = np.random.default_rng(0).standard_normal((2, 12, 8)) * np.linspace(0.5, 2, 8)
    columns -= columns.mean(axis=2, keepdims=True)
    gram = gram_of_columns(columns)
    found = selection_under(np.zeros((2, 8)), gram.own, 2).probability
    np.testing.assert_allclose(found, breadth(gram, 2).probability, atol=0.005)


def test_a_number_added_to_all_logits_changes_nothing():
    moments = logit_moments(normal_logits(4))
    shared = moments.covariance + 50.0  # a common, independent offset of variance 50
    before = selection_under(moments.mean, moments.covariance, 2).probability
    after = selection_under(moments.mean + 9, shared, 2).probability
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_selection_edges_are_clear():
    assert (selection_under(np.zeros((1, 4)), np.eye(4)[None], 4).probability == 1).all()
    with pytest.raises(LensError, match="expected 1 to 4"):
        selection_under(np.zeros((1, 4)), np.eye(4)[None], 5)
    with pytest.raises(LensError, match="Layer row 1: .* do not vary"):
        selection_under(np.zeros((2, 4)), np.stack([np.eye(4), np.ones((4, 4))]), 2)


# --- prediction -----------------------------------------------------------------


def test_loads_of_normal_logits_are_predicted_up_to_chance():
    logits = normal_logits(5, 2000, 3, mean=np.linspace(0, 2, 8))
    found = load_prediction(trace_of(logits), draws=199)
    assert found.normal.correlation > 0.98
    assert found.normal.p <= 0.005
    assert found.normal.error < 1.5 * found.noise_error
    assert found.normal.error < 0.2 * found.even_error
    assert found.isotropic is None


def test_the_noise_error_is_that_of_independent_tokens():
    share = np.array([0.4, 0.3, 0.2, 0.1])
    rng = np.random.default_rng(0)
    errors = [np.abs(rng.multinomial(200, share) / 200 - share).mean() for _ in range(400)]
    first = rng.choice(4, size=200_000, p=share)[None, :, None]
    big = load_prediction(
        routed(first, 4, rng.standard_normal((1, 200_000, 4))),
        draws=19,
        moments=logit_moments(rng.standard_normal((1, 9, 4))),
    )
    assert big.noise_error * np.sqrt(200_000 / 200) == pytest.approx(np.mean(errors), rel=0.1)


def test_an_even_prediction_has_no_correlation():
    measured = np.random.default_rng(0).dirichlet(np.ones(8), 3)
    found = compare_loads(measured, np.full((3, 8), 1 / 8), draws=19)
    assert np.isnan(found.correlation) and np.isnan(found.p)


def test_p_of_an_unrelated_prediction_is_uniform():
    from scipy.stats import kstest

    p = []
    for seed in range(250):
        rng = np.random.default_rng(seed)
        a, b = rng.dirichlet(np.ones(8), 2), rng.dirichlet(np.ones(8), 2)
        p.append(compare_loads(a, b, draws=99, seed=seed).p)
    assert kstest(p, "uniform").pvalue > 0.001


def test_a_prediction_for_another_model_is_refused():
    with pytest.raises(LensError, match=r"\(2, 8\) layers and experts"):
        load_prediction(trace_of(normal_logits(0)), np.full((3, 8), 0.25))
