"""Doses of a feature beside random directions: what is said of them is calibrated."""

from __future__ import annotations

import numpy as np
import pytest

from lens.features.in_text.doses import LEVEL, Doses
from lens.figures.features import feature_doses

RNG = np.random.default_rng(4)


def found(own, random) -> Doses:
    own, random = np.asarray(own), np.asarray(random)
    zeros = np.zeros(len(own))
    names = ("taken out", "half up", "fully up")[-len(own) :]
    return Doses(names, zeros, 400, own, random, zeros, 0.0 * random, zeros, 0.0 * random)


def test_a_feature_that_is_one_more_random_direction_is_seldom_told_apart():
    told = []
    for _ in range(400):
        pushes = RNG.lognormal(0, 0.5, 40)  # one direction is stronger at all doses
        counts = RNG.poisson(pushes[:, None] * np.array([2.0, 30.0, 90.0]))
        told.append(found(counts[0], counts[1:]).verdict != "about as many routes as")
    assert 0.01 < np.mean(told) < LEVEL + 3 * np.sqrt(LEVEL / 400)


@pytest.mark.parametrize(
    ("times", "verdict"), [(4.0, "more routes than"), (0.1, "fewer routes than")]
)
def test_one_that_changes_far_more_or_fewer_is(times, verdict):
    random = RNG.poisson(np.array([2.0, 30.0, 90.0]), (39, 3))
    one = found((times * np.array([4, 30, 90])).astype(int), random)
    assert one.verdict == verdict and one.p == pytest.approx(2 / 40)
    assert (one.ratio > 1) == (times > 1)


def test_the_figure_has_every_direction_and_says_what_it_shows():
    random = RNG.poisson(30.0, (39, 2))
    figure = feature_doses(found([12, 40], random), "L4·F2").to_dict()
    rows = [row for rows in figure["datasets"].values() for row in rows]
    assert sum(row["what"] == "a random direction" for row in rows) == 78
    assert [row["share"] for row in rows if row["what"] == "L4·F2"] == [12 / 400, 40 / 400]
    assert "of L4·F2" in figure["description"]
