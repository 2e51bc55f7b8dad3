"""Claims about layers are settled beside nothing claimed and beside the same claims dealt out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from lens.features.claims import settled


@dataclass
class Found:
    """Claims of some dictionaries, as the runner gives them."""

    claims: np.ndarray
    measured: np.ndarray
    names: tuple[str, ...] = ("a", "b")

    @property
    def disputed(self):
        return np.ptp(self.claims, axis=0) > 0.5 * np.abs(self.claims).min(0)

    def nearest(self, free=True):
        return np.abs(self.claims - self.measured[int(free)]).argmin(0)

    def missed(self, free=True):
        own = self.measured[int(free)]
        return np.linalg.norm(self.claims - own, axis=1) / np.linalg.norm(own)


def test_who_knows_the_layer_beats_its_own_claims_dealt_out_and_who_does_not_does_not():
    rng = np.random.default_rng(0)
    own = rng.standard_normal(10) ** 3
    knows = own + 0.1 * rng.standard_normal(10)
    told = settled(Found(np.stack([knows, np.full(10, own.mean())]), np.stack([own, own])))
    assert told.missed[0] < 0.3 < told.missed[1]
    assert told.p[0] < 0.01 and told.dealt[0] > 1
    assert told.p[1] == 1 and told.dealt[1] == pytest.approx(told.missed[1])  # all deals alike
    assert told.nearer.sum() == told.disputed <= told.layers == 10


def test_p_of_claims_that_say_nothing_of_layers_is_uniform():
    rng = np.random.default_rng(1)
    p, even = [], []
    for _ in range(120):
        told = settled(Found(rng.standard_normal((2, 8)), rng.standard_normal((2, 8))))
        p += told.p.tolist()
        even.append(told.even)
    for level in (0.1, 0.5, 0.9):
        assert abs((np.array(p) <= level).mean() - level) < 0.12
    assert (np.array(even) <= 0.05).mean() < 0.1


def test_too_few_layers_have_no_deals_and_no_dispute_has_no_p():
    told = settled(Found(np.ones((2, 3)), np.ones((2, 3))))
    assert told.disputed == 0 and np.isnan(told.even)
    assert np.isnan(told.p).all() and not told.missed.any()
