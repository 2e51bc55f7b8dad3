"""What leaves a measure unchanged, for any routers: labels, shared columns, scales, rotations."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lens.experts.measures import expert_measures
from lens.experts.same_expert import matched_links
from lens.experts.selection import breadth
from lens.layers.pair_null import layer_null
from lens.layers.similarity import layer_similarity
from lens.routers.effective_dimension import unbiased_dimension
from lens.routers.gram import RouterGram, gram_of_columns, router_gram
from lens.routers.router_set import RouterSet

LABEL_FREE = ("cka", "matched_cosine", "principal_angles")
MANY = settings(max_examples=25, deadline=None)
FEW = settings(max_examples=10, deadline=None)  # breadth takes its time


@st.composite
def router_sets(draw: st.DrawFn) -> tuple[RouterSet, np.random.Generator]:
    """Routers of varied shape, related to each other or not, and numbers to change them with."""
    n_layers = draw(st.integers(2, 6))
    n_experts = draw(st.integers(3, 9))
    d_model = draw(st.integers(n_experts + 3, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shared = draw(st.sampled_from([0.0, 0.5, 0.9]))
    common = rng.standard_normal((d_model, n_experts))
    layers = shared * common + rng.standard_normal((n_layers, d_model, n_experts))
    layers *= rng.uniform(0.5, 2, (n_layers, 1, n_experts))
    return RouterSet(layers.astype(np.float32)), rng


def like(routers: RouterSet, columns: np.ndarray) -> RouterGram:
    return router_gram(RouterSet(columns.astype(np.float32), top_k=routers.top_k))


def relabelled(routers: RouterSet, rng: np.random.Generator) -> np.ndarray:
    return np.stack([layer[:, rng.permutation(layer.shape[1])] for layer in routers.routers])


@MANY
@given(router_sets())
def test_labels_of_experts_change_no_similarity_and_no_p_value(given_set):
    routers, rng = given_set
    before, after = router_gram(routers), like(routers, relabelled(routers, rng))
    for metric in LABEL_FREE:
        np.testing.assert_allclose(
            layer_similarity(after, metric), layer_similarity(before, metric), atol=2e-4
        )
    nulls = [layer_null(gram, "cka", draws=60) for gram in (before, after)]
    np.testing.assert_allclose(nulls[1].z, nulls[0].z, atol=0.02, rtol=2e-3)


@FEW
@given(router_sets())
def test_a_column_shared_by_a_layers_experts_changes_nothing_canonical(given_set):
    routers, rng = given_set
    shared = routers.routers + 2 * rng.standard_normal((routers.n_layers, routers.d_model, 1))
    before, after = router_gram(routers), like(routers, shared)
    for metric in (*LABEL_FREE, "cosine"):
        np.testing.assert_allclose(
            layer_similarity(after, metric), layer_similarity(before, metric), atol=2e-4
        )
    np.testing.assert_allclose(
        breadth(after, 2).probability, breadth(before, 2).probability, atol=4e-3
    )
    assert abs(unbiased_dimension(after) / unbiased_dimension(before) - 1) < 1e-3


@FEW
@given(router_sets())
def test_a_scale_per_layer_changes_no_similarity_and_no_breadth(given_set):
    routers, rng = given_set
    scaled = routers.routers * np.exp(rng.uniform(-8, 8, (routers.n_layers, 1, 1)))
    before, after = router_gram(routers), like(routers, scaled)
    for metric in (*LABEL_FREE, "cosine"):
        np.testing.assert_allclose(
            layer_similarity(after, metric), layer_similarity(before, metric), atol=2e-4
        )
    np.testing.assert_allclose(
        breadth(after, 2).probability, breadth(before, 2).probability, atol=4e-3
    )


@MANY
@given(router_sets())
def test_a_rotation_of_the_residual_stream_changes_nothing_but_single_weights(given_set):
    routers, rng = given_set
    turn = np.linalg.qr(rng.standard_normal((routers.d_model, routers.d_model)))[0]
    before, after = router_gram(routers), like(routers, turn @ routers.routers)
    for metric in (*LABEL_FREE, "cosine", "euclidean"):
        np.testing.assert_allclose(
            layer_similarity(after, metric), layer_similarity(before, metric), atol=2e-4
        )
    np.testing.assert_allclose(after.norms, before.norms, rtol=1e-4)
    links = [matched_links(gram, draws=60) for gram in (before, after)]
    np.testing.assert_allclose(links[1].score, links[0].score, atol=2e-4)


@FEW
@given(router_sets())
def test_expert_measures_follow_the_labels(given_set):
    routers, rng = given_set
    order = rng.permutation(routers.n_experts)
    moved = RouterSet(np.ascontiguousarray(routers.routers[:, :, order]))
    before = expert_measures(routers, router_gram(routers))
    after = expert_measures(moved, router_gram(moved))
    for name in ("norm", "variance", "l1_l2", "max_similarity"):
        np.testing.assert_allclose(
            getattr(after, name), getattr(before, name)[:, order], rtol=2e-3, atol=1e-5
        )
    np.testing.assert_allclose(after.breadth, before.breadth[:, order], atol=4e-3)


@MANY
@given(router_sets())
def test_similarities_are_symmetric_within_their_range_and_one_with_themselves(given_set):
    routers, _ = given_set
    gram = gram_of_columns(routers.columns())
    for metric in (*LABEL_FREE, "cosine", "correlation", "euclidean"):
        found = layer_similarity(gram, metric)
        np.testing.assert_array_equal(found, found.T)
        np.testing.assert_array_equal(np.diagonal(found), 1)
        assert np.abs(found).max() <= 1
