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
    names, added = ("taken out", "half up", "fully up"), np.array([-9.0, 2.0, 4.0])
    names, added = names[-len(own) :], added[-len(own) :]
    return Doses(names, added, 400, own, random, zeros, 0.0 * random, zeros, 0.0 * random)


def test_a_feature_that_is_one_more_random_direction_is_seldom_told_apart():
    told = []
    for _ in range(800):
        pushes = RNG.lognormal(0, 0.5, 40)  # one direction is stronger at all doses
        counts = RNG.poisson(pushes[:, None] * np.array([20.0, 30.0, 90.0]))
        one = found(counts[0], counts[1:])
        told.append([one.more(out=out) for out in (True, False)])
    share, spread = np.mean(told, 0), np.sqrt(LEVEL / 800)
    assert (share < LEVEL + 3 * spread).all() and (share > 0).all()


def test_one_that_changes_far_more_is_told_and_each_question_apart():
    random = RNG.poisson(np.array([20.0, 30.0, 90.0]), (39, 3))
    one = found([80, 30, 90], random)
    assert one.more(out=True) and not one.more(out=False)
    assert one.p(out=True) == pytest.approx(1 / 40) and one.ratio(out=True) > 3
    few = found([1, 2, 3], random)
    assert not few.more(out=True) and not few.more(out=False) and few.ratio(out=False) < 0.2


def test_the_figure_has_every_direction_and_says_what_it_shows():
    random = RNG.poisson(30.0, (39, 2))
    figure = feature_doses(found([12, 40], random), "L4·F2").to_dict()
    rows = [row for rows in figure["datasets"].values() for row in rows]
    assert sum(row["what"] == "a random direction" for row in rows) == 78
    assert [row["share"] for row in rows if row["what"] == "L4·F2"] == [12 / 400, 40 / 400]
    assert "of L4·F2" in figure["description"]
