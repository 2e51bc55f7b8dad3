"""Draws of the nulls of layers: as many as asked for, fewer where each takes long."""

import numpy as np
import pytest

from lens.layers.draws import LayerDraws, bootstrap_draws, rotation_draws
from lens.report.numbers import RouterNumbers
from lens.report.parts import Settings
from lens.routers.router_set import RouterSet


def test_draws_are_cut_where_many_experts_would_take_gigabytes_or_minutes():
    assert rotation_draws("cka", 63, 64) == 1000
    assert rotation_draws("cka", 127, 256) == 64
    assert rotation_draws("matched_cosine", 63, 8) == 1000
    assert 100 < rotation_draws("matched_cosine", 47, 128) < 512
    assert 19 <= rotation_draws("matched_cosine", 127, 256) < 60


def test_resampling_is_cut_where_many_experts_would_take_minutes():
    assert bootstrap_draws(63, 6144, 8) == 1000
    assert 49 <= bootstrap_draws(127, 4096, 256) < 100


def test_a_set_of_few_experts_gets_the_draws_it_is_asked_for():
    draws = LayerDraws(64, 6144, 8, 500)
    assert draws.all_pairs() == draws.one_pair("matched_cosine") == 500
    assert draws.adjacent_pairs("cka") == draws.unrelated_routers("cka") == 500
    assert draws.resampled_pair() == draws.resampled_adjacent_pairs() == 500


def test_a_single_layer_has_draws_though_it_has_no_pair():
    one = LayerDraws(1, 64, 12)
    assert one.adjacent_pairs("matched_cosine") > 0 and one.resampled_adjacent_pairs() > 0


@pytest.mark.parametrize("metric", ["cka", "matched_cosine"])
def test_the_report_draws_as_often_as_the_pages_do(metric):
    weights = np.random.default_rng(3).standard_normal((3, 40, 200)).astype(np.float32)
    routers = RouterSet(weights)
    numbers = RouterNumbers(routers, Settings("canonical", metric, 0, 400))
    policy = LayerDraws.of(routers, 400)
    assert numbers.draws == policy and policy.all_pairs() < 400
    assert len(numbers.drawn_series) == policy.adjacent_pairs(metric)
