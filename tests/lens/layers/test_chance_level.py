"""Chance levels against simulation and against what is known of them."""

import numpy as np
import pytest

from lens.errors import LensError
from lens.layers.chance_level import chance_level, chance_samples, typical_norm
from lens.layers.similarity import LAYER_METRICS, layer_similarity
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(29)


def test_chance_levels_at_full_size_are_the_published_ones():
    cka = chance_level("cka", 6144, 8, 1000)
    assert cka.mean == pytest.approx(0.0011, abs=1e-4)
    assert chance_level("principal_angles", 6144, 8, 1000).mean == pytest.approx(7 / 6144, rel=0.05)
    matched = chance_level("matched_cosine", 6144, 8, 1000)
    assert matched.mean == pytest.approx(0.0175, abs=3e-4)
    assert matched.sd == pytest.approx(0.0023, abs=2e-4)
    assert "matched anew" in matched.method
    identity = chance_level("cosine", 6144, 8, 1000)
    assert abs(identity.mean) < 6e-4 and identity.sd == pytest.approx(0.0049, abs=4e-4)


@pytest.mark.parametrize("view", ["canonical", "raw"])
@pytest.mark.parametrize("metric", LAYER_METRICS)
@pytest.mark.parametrize("d_model", [6, 40])
def test_draws_follow_the_similarities_of_routers_drawn_in_full(metric, view, d_model):
    routers = RouterSet(RNG.standard_normal((60, d_model, 5)).astype(np.float32))
    gram = router_gram(routers, view)
    pairs = layer_similarity(gram, metric)[np.triu_indices(60, 1)]
    found = chance_level(metric, d_model, 5, 2000, norm=typical_norm(gram), view=view)
    # 60 layers stand behind all pairs, so that their mean is good to about sd / √60.
    assert found.mean == pytest.approx(pairs.mean(), abs=found.sd / 2)
    assert found.sd == pytest.approx(pairs.std(), rel=0.2)


def test_a_seed_gives_the_same_draws_and_another_gives_others():
    first = chance_samples("cka", 100, 4, 50, 1)
    chance_samples.cache_clear()
    np.testing.assert_array_equal(first, chance_samples("cka", 100, 4, 50, 1))
    assert (first != chance_samples("cka", 100, 4, 50, 2)).any()
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_the_summary_is_in_order():
    found = chance_level("cka", 100, 4, 500)
    assert found.low < found.mean < found.q95 < found.high < found.q99
    assert (found.draws, found.seed) == (500, 0)


def test_unknown_metrics_and_views_are_refused():
    with pytest.raises(LensError, match="metric: found 'nope'"):
        chance_level("nope", 10, 4)
    with pytest.raises(LensError, match="view: found 'nope'"):
        chance_level("cka", 10, 4, view="nope")
