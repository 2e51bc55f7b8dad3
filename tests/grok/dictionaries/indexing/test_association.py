"""p-values of features and experts: uniform without an association, small where there is one."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from grok.dictionaries.indexing.association import associated, false_discoveries, strata_of

N, CELLS, FEATURES = 6000, 8, 300
WINDOW = np.arange(N) // 50


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
    found = associated(sparse.csc_matrix(active), strata_of(token, label, WINDOW, chosen))
    p = found.p[np.isfinite(found.p)]
    assert p.size > 1000
    for level in (0.01, 0.05, 0.25, 0.5, 0.75):
        assert abs((p <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / p.size) + 0.02
    assert (false_discoveries(found.p)[np.isfinite(found.p)] <= 0.05).mean() < 0.01
    assert 1 <= np.nanmedian(found.design) < 1.1
    # Without strata the same features and experts go together.
    plain = associated(sparse.csc_matrix(active), strata_of(0 * token, 0 * label, WINDOW, chosen))
    assert (plain.p <= 0.01).mean() > 0.3


def test_a_planted_association_is_found_with_its_size():
    rng = np.random.default_rng(1)
    token, label, chosen = routed(rng)
    active = by_token(rng, token, label)
    active[:, 0] = rng.random(N) < np.where(chosen[:, 3] > 0, 0.3, 0.1)
    found = associated(sparse.csc_matrix(active), strata_of(token, label, WINDOW, chosen))
    q = false_discoveries(found.p)
    assert q[0, 3] < 1e-5
    own = active[:, 0] > 0
    np.testing.assert_allclose(found.share[0, 3], chosen[own, 3].mean(), rtol=1e-6)
    assert found.share[0, 3] - found.expected[0, 3] > 0.08
    assert np.nanmin(q[1:]) > 1e-4


def test_a_token_detector_is_asked_nothing():
    """Active at all tokens of one id in both texts: its count could not have been another."""
    rng = np.random.default_rng(2)
    token, label, chosen = routed(rng)
    active = sparse.csc_matrix((token == 1)[:, None].astype(np.float32))
    found = associated(active, strata_of(token, label, WINDOW, chosen))
    assert np.isnan(found.p).all()
    np.testing.assert_allclose(found.share, found.expected, rtol=1e-6)


def in_windows(seed: int, strength: float = 1.0, windows: int = 120, length: int = 100):
    """Tokens whose windows have experts of their own, and features with windows of their own."""
    rng = np.random.default_rng(seed)
    n, f = windows * length, 150
    window = np.repeat(np.arange(windows), length)
    label, token = window % 2, rng.zipf(1.4, n) % 40
    own = strength * rng.standard_normal((windows, CELLS))
    favoured = 1.5 * np.eye(CELLS)[rng.integers(0, CELLS, (40, 2))]
    choice = (own[window] + favoured[token, label] + rng.gumbel(size=(n, CELLS))).argmax(1)
    likes = 1.5 * rng.standard_normal((f, 40, 2)) - rng.uniform(1.5, 5, f)[:, None, None]
    stays = strength * rng.standard_normal((f, windows))
    odds = (likes[:, token, label] + stays[:, window]).T
    active = (rng.random((n, f)) < 1 / (1 + np.exp(-odds))).astype(np.float32)
    return token, label, window, np.eye(CELLS, dtype=np.float32)[choice], active


def test_features_and_experts_that_stay_for_a_while_are_no_association():
    together, apart = [], []
    for seed in range(2):
        token, label, window, chosen, active = in_windows(seed)
        ones = sparse.csc_matrix(active)
        together.append(associated(ones, strata_of(token, label, window, chosen)))
        every = np.arange(len(token))  # each token a window: tokens taken as independent
        apart.append(associated(ones, strata_of(token, label, every, chosen)))
    p, naive = (np.concatenate([one.p for one in some]) for some in (together, apart))
    assert np.isfinite(p).sum() > 2000
    assert 0.03 < (p <= 0.05).mean() < 0.07 and (p <= 0.01).mean() < 0.015
    assert 0.42 < (p <= 0.5).mean() < 0.58
    assert (naive <= 0.05).mean() > 0.1 and (naive <= 0.01).mean() > 0.03
    for some in together:
        assert np.nanmin(false_discoveries(some.p)) > 0.05
    assert any(np.nanmin(false_discoveries(some.p)) < 1e-3 for some in apart)
    assert np.nanmedian(together[0].design) > 1.3


def test_an_association_is_found_among_features_that_stay_for_a_while():
    token, label, window, chosen, active = in_windows(7)
    rng = np.random.default_rng(8)
    stays = rng.standard_normal(window.max() + 1)[window] - 3
    active[:, 0] = rng.random(len(token)) < 1 / (1 + np.exp(-stays - 1.5 * chosen[:, 3]))
    active[:, 1] = rng.random(len(token)) < np.where(chosen[:, 5] > 0, 0.04, 0.01)
    found = associated(sparse.csc_matrix(active), strata_of(token, label, window, chosen))
    q = false_discoveries(found.p)
    assert q[0, 3] < 0.01 and q[1, 5] < 0.01
    assert np.nanmin(q[2:]) > 0.05


def test_what_one_window_alone_says_is_no_evidence():
    token, label, window, chosen, _ = in_windows(9, strength=0.0)
    chosen[window == 4] = np.eye(CELLS)[2]
    ones = sparse.csc_matrix((window == 4)[:, None].astype(np.float32))
    found = associated(ones, strata_of(token, label, window, chosen))
    assert found.share[0, 2] == 1 and found.p[0, 2] > 0.1
    naive = associated(ones, strata_of(token, label, np.arange(len(token)), chosen))
    assert naive.p[0, 2] < 1e-6


def test_the_variance_over_windows_is_the_one_worked_out_token_by_token():
    token, label, window, chosen, active = in_windows(3, windows=20, length=40)
    strata = strata_of(token, label, window, chosen)
    found = associated(sparse.csc_matrix(active[:, :40]), strata)
    size = strata.sizes[strata.of].astype(float)
    for i in range(40):
        rate = (np.bincount(strata.of, active[:, i]) / strata.sizes)[strata.of]
        a = (active[:, i] - rate) * np.sqrt(size / np.maximum(size - 1, 1))
        part = a[:, None] * (chosen - strata.shares[strata.of])
        over = np.zeros((20, CELLS))
        np.add.at(over, window, part)
        m = np.bincount(strata.of, active[:, i])
        n, p = strata.sizes, strata.shares
        deal = ((m * (n - m) / np.maximum(n - 1, 1))[:, None] * p * (1 - p)).sum(0)
        asked = np.isfinite(found.design[i])
        expected = np.maximum(np.square(over).sum(0) / np.maximum(deal, 1e-9), 1)
        np.testing.assert_allclose(found.design[i][asked], expected[asked], rtol=1e-4)
    assert np.isfinite(found.design).sum() > 100
