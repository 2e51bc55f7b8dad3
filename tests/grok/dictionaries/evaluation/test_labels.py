"""Probes and specificity find what was planted, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize

from grok.dictionaries.evaluation.labels.labelled import CLASSES, Labelled, token_classes
from grok.dictionaries.evaluation.labels.probes import balanced, logistic, mean_scores, probed
from grok.dictionaries.evaluation.labels.specificity import shuffle_within, specificity, strongest

N, F = 2400, 12


def planted() -> Labelled:
    """Feature 0 tells the domain, feature 1 expert 2 within each; expert 0 is of domain 0."""
    rng = np.random.default_rng(0)
    window = np.repeat(np.arange(N // 20), 20)
    domain = (window // 2) % 2
    chance = rng.random((N, F))
    first = np.where(domain == 0, rng.choice([0, 0, 0, 2], N), rng.choice([1, 1, 3, 2], N))
    second = np.full(N, 4)
    features = np.where(chance < 0.1, rng.random((N, F)), 0)
    features[:, 0] = np.where(domain == 1, 1.0 + chance[:, 0], 0)
    features[:, 1] = np.where(first == 2, 1.0, 0) * (chance[:, 1] > 0.1)
    return Labelled(
        domain,
        ("one", "two"),
        window,
        rng.integers(0, 30, N),
        np.arange(N) % 3,
        {5: np.stack([first, second], 1)},
        {"dictionary": [sparse.csr_matrix(features.astype(np.float32))]},
        [rng.standard_normal((N, 4)).astype(np.float32)],
        [5],
    )


def test_probes_find_the_planted_features_and_no_others():
    scores = mean_scores(probed(planted()))
    assert min(scores["domain"]["dictionary"]) > 0.99
    # One of four experts has its feature; the other three are chance within a domain.
    assert scores["first expert"]["dictionary"][0] > 0.6
    for label, methods in scores.items():
        for method in ("shuffled", "pca", "coordinates"):
            np.testing.assert_allclose(methods[method], 0.5, atol=0.08, err_msg=f"{label} {method}")
    np.testing.assert_allclose(scores["token class"]["dictionary"], 0.5, atol=0.06)


def test_the_probe_is_a_logistic_regression():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((800, 3)) * [1, 5, 0.1] + 3
    inside = (x - 3) @ [1, -0.2, 4] + rng.logistic(size=800) > 0
    weights = balanced(inside, np.zeros(800), 20, np.ones(800, bool))

    def loss(own):
        signed = np.where(inside, 1, -1) * (x @ own[:-1] + own[-1])
        return weights @ np.logaddexp(0, -signed)

    own = logistic(x, inside, weights)
    other = minimize(loss, np.zeros(4), method="BFGS").x
    np.testing.assert_allclose(own[:-1], other[:-1], rtol=0.05, atol=0.01)
    assert loss(own) == pytest.approx(loss(other), rel=1e-3)


def test_specificity_is_what_the_domain_does_not_give():
    found = specificity(planted())
    rows = found["methods"]["dictionary"]
    assert found["layers"] == [5]
    # The domain's feature says much of experts, and nothing within a domain.
    assert rows["nothing"]["mean"][0] > rows["domain"]["mean"][0]
    assert rows["domain"]["features"] == [F]
    assert 1 / F <= rows["domain"]["above"][0] < 0.4
    own = planted()
    active = own.features["dictionary"][0].copy()
    active.data[:] = 1

    went = (own.experts[5][:, :, None] == np.arange(5)).any(1).astype(float)
    strengths = strongest(active, went, own.domain)
    assert np.argmax(strengths) == 1
    on = np.asarray(active.toarray()[:, 1], bool)
    expected = np.mean([went[on & (own.domain == d), 2].mean() - went[own.domain == d, 2].mean()
                        for d in own.domain[on]])  # fmt: skip
    assert strengths[1] == pytest.approx(expected, abs=0.01)
    assert abs(strengths[0]) < 0.01


def test_shuffling_keeps_every_token_in_its_unit():
    units = np.array([3, 1, 3, 3, 1, 2, 3])
    order = shuffle_within(units)
    np.testing.assert_array_equal(units[order], units)
    assert sorted(order) == list(range(7))


def test_pieces_are_told_apart():
    pieces = ["▁The", "re", "▁12", "7", "▁▁", "\n", "▁'", "é", "<0x0A>", "x2"]
    told = [CLASSES[i] for i in token_classes(pieces)]
    assert told == ["word start", "word part", "digits", "digits", "space", "space", "signs",
                    "word part", "other", "word part"]  # fmt: skip
