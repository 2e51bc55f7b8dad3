"""The cached doors: keyed by content, and the same as the functions behind them."""

import inspect

import numpy as np
import pytest

from lens import cached, questions
from lens.clustering import maps as embedding
from lens.clustering import trees as clustering
from lens.clustering.maps import MapSettings
from lens.clustering.reference_sets import ClusterSettings
from lens.errors import LensError
from lens.experts import measures as experts
from lens.experts import nearest, selection
from lens.experts import similarity as expert_similarity
from lens.layers import similarity
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(37)


@pytest.fixture(autouse=True)
def empty_caches():
    yield
    for door in vars(cached).values():
        if hasattr(door, "clear") and hasattr(door, "__wrapped__"):
            door.clear()


def test_sets_of_full_size_that_differ_in_one_weight_never_share_an_entry():
    # Streamlit hashes only a sample of arrays as big as these.
    weights = RNG.standard_normal((64, 6144, 8), dtype=np.float32)
    before = cached.expert_correlation(RouterSet(weights))
    for _ in range(5):
        layer, row, expert = (RNG.integers(n) for n in weights.shape)
        edited = weights.copy()
        edited[layer, row, expert] += 50
        after = cached.expert_correlation(RouterSet(edited))
        assert np.abs(after[layer, expert] - before[layer, expert]).max() > 0.01


def test_an_equal_set_is_served_from_the_cache():
    weights = RNG.standard_normal((5, 40, 4)).astype(np.float32)
    first = cached.router_gram(RouterSet(weights, source="one"))
    assert cached.router_gram(RouterSet(weights.copy(), source="other")) is first
    assert cached.router_gram(RouterSet(weights, source="one"), "canonical") is first
    assert cached.router_gram(RouterSet(weights, top_k=1)) is not first


@pytest.mark.parametrize("view", ["canonical", "raw"])
def test_doors_give_what_the_functions_behind_them_give(view):
    routers = RouterSet(RNG.standard_normal((7, 40, 5)).astype(np.float32))
    gram = router_gram(routers, view)
    unrelated = ClusterSettings("cosine", view, "unrelated")
    for found, expected in [
        (cached.layer_similarity(routers, "cka", view), similarity.layer_similarity(gram, "cka")),
        (
            cached.layer_pair(routers, 1, 4, view).cosines,
            similarity.layer_pair(gram, 1, 4).cosines,
        ),
        (
            cached.adjacent_layers(routers, "cosine", view).similarity,
            similarity.adjacent_layers(gram, "cosine").similarity,
        ),
        (cached.expert_correlation(routers, view), expert_similarity.expert_correlation(gram)),
        (
            cached.expert_similarity_across_layers(routers, view),
            expert_similarity.expert_similarity_across_layers(gram),
        ),
        (
            cached.near_experts(routers, 2, 3, 4, view),
            nearest.near_experts(gram, 2, 3, 4),
        ),
        (cached.breadth(routers, view), selection.breadth(gram, 2)),
        (
            cached.expert_measures(routers, view).l1_l2,
            experts.expert_measures(routers, gram, view).l1_l2,
        ),
        (
            cached.layer_tree(routers, "cka", "complete", view).linkage,
            clustering.layer_tree(gram, "cka", "complete").linkage,
        ),
        (
            cached.layer_map(routers, "mds", MapSettings("cosine"), unrelated).points,
            embedding.layer_map(routers, gram, "mds", MapSettings("cosine")).points,
        ),
        (cached.classic_tree(routers).linkage, clustering.classic_tree(routers).linkage),
    ]:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_the_questions_are_always_asked_of_the_canonical_view():
    routers = RouterSet(RNG.standard_normal((7, 40, 5)).astype(np.float32))
    assert cached.four_questions(routers) == questions.four_questions(routers, router_gram(routers))
    assert "view" not in inspect.signature(cached.four_questions).parameters


def test_an_error_is_raised_again_and_not_cached():
    routers = RouterSet(RNG.standard_normal((3, 40, 5)).astype(np.float32))
    for _ in range(2):
        with pytest.raises(LensError, match="at least 4 layers"):
            cached.layer_map(routers, "mds", MapSettings(), ClusterSettings())
