"""p-values of features and experts: uniform where activity is dealt out, small where it is not."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from grok.dictionaries.indexing.association import associated, false_discoveries, strata_of

N, CELLS, FEATURES = 6000, 8, 300


def routed(rng):
    """Tokens of few ids in two texts; each id and text has experts of its own."""
    token, label = rng.zipf(1.4, N) % 40, rng.integers(0, 2, N)
    favoured = rng.integers(0, CELLS, (40, 2))
    choice = np.where(rng.random(N) < 0.6, favoured[token, label], rng.integers(0, CELLS, N))
    chosen = np.zeros((N, CELLS), np.float32)
    chosen[np.arange(N), choice] = 1
    return token, label, chosen


def by_token(rng, token, label):
    """Features that some ids in one text switch on: far from independent of the experts."""
    likes = rng.random((FEATURES, 40, 2)) ** 6
    return (rng.random((N, FEATURES)) < likes[:, token, label].T).astype(np.float32)


def test_p_values_are_uniform_where_activity_is_dealt_out_within_strata():
    rng = np.random.default_rng(0)
    token, label, chosen = routed(rng)
    active = by_token(rng, token, label)
    for t in range(40):
        for own in range(2):
            at = np.flatnonzero((token == t) & (label == own))
            for i in range(FEATURES):
                active[at, i] = active[rng.permutation(at), i]
    found = associated(sparse.csc_matrix(active), strata_of(token, label, chosen))
    p = found.p[np.isfinite(found.p)]
    assert p.size > 1000
    for level in (0.01, 0.05, 0.25, 0.5, 0.75):
        assert abs((p <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / p.size) + 0.02
    assert (false_discoveries(found.p)[np.isfinite(found.p)] <= 0.05).mean() < 0.01
    # Without strata the same features and experts go together.
    plain = associated(sparse.csc_matrix(active), strata_of(0 * token, 0 * label, chosen))
    assert (plain.p <= 0.01).mean() > 0.3


def test_a_planted_association_is_found_with_its_size():
    rng = np.random.default_rng(1)
    token, label, chosen = routed(rng)
    active = by_token(rng, token, label)
    active[:, 0] = rng.random(N) < np.where(chosen[:, 3] > 0, 0.3, 0.1)
    found = associated(sparse.csc_matrix(active), strata_of(token, label, chosen))
    q = false_discoveries(found.p)
    assert q[0, 3] < 1e-6
    own = active[:, 0] > 0
    np.testing.assert_allclose(found.share[0, 3], chosen[own, 3].mean(), rtol=1e-6)
    assert found.share[0, 3] - found.expected[0, 3] > 0.08
    assert np.nanmin(q[1:]) > 1e-4


def test_a_token_detector_is_asked_nothing():
    """Active at all tokens of one id in both texts: its count could not have been another."""
    rng = np.random.default_rng(2)
    token, label, chosen = routed(rng)
    active = sparse.csc_matrix((token == 1)[:, None].astype(np.float32))
    found = associated(active, strata_of(token, label, chosen))
    assert np.isnan(found.p).all()
    np.testing.assert_allclose(found.share, found.expected, rtol=1e-6)
