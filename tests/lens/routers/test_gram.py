"""The one Gram product."""

import numpy as np
import pytest

from lens.errors import LensError
from lens.routers.gram import (
    RouterGram,
    router_gram,
    standardized_gram,
)
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(3)
L, D, E = 4, 60, 5
ROUTERS = RouterSet(
    RNG.standard_normal((L, D, E)).astype(np.float32),
    norm_scales=RNG.uniform(0.5, 2, (L, D)).astype(np.float32),
    layer_ids=np.array([3, 4, 7, 9]),
)


def cosines(gram: RouterGram) -> np.ndarray:
    return np.stack([gram.cosine_row(layer) for layer in range(gram.n_layers)])


@pytest.mark.parametrize("held", [0, 10_000])
@pytest.mark.parametrize("view", ["canonical", "raw"])
def test_every_entry_is_the_inner_product_of_two_columns(view, held):
    gram = router_gram(ROUTERS, view, held_columns=held)
    assert (gram.held is None) == (held == 0)
    columns = ROUTERS.columns(view).astype(np.float64)
    expected = np.einsum("ade,bdf->aebf", columns, columns)
    near = 1e-5 * np.abs(expected).max()
    for a in range(L):
        np.testing.assert_allclose(gram.row(a), expected[a], atol=near)
        np.testing.assert_allclose(gram.row(a, 2), expected[a, :, 2:], atol=near)
        np.testing.assert_allclose(gram.own[a], expected[a, :, a], atol=near)
        for b in range(L):
            np.testing.assert_allclose(gram.pair(a, b), expected[a, :, b], atol=near)
            near_one = gram.cosine_row(a)[:, b]
            np.testing.assert_allclose(gram.cosine_pair(a, b), near_one, atol=1e-6)
    np.testing.assert_allclose(gram.sums, columns.sum(axis=1), atol=1e-4)
    np.testing.assert_allclose(gram.norms, np.linalg.norm(columns, axis=1), rtol=1e-5)


def test_cosines_are_exact_to_a_millionth_at_full_width():
    routers = RouterSet(RNG.standard_normal((4, 6144, 8)).astype(np.float32))
    columns = routers.columns().astype(np.float64)
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    expected = np.einsum("ade,bdf->aebf", columns, columns)
    np.testing.assert_allclose(cosines(router_gram(routers)), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_tiny_and_huge_weights_keep_their_cosines(scale):
    scaled = RouterSet(ROUTERS.routers * np.float32(scale))
    plain = RouterSet(ROUTERS.routers)
    gram = router_gram(scaled)
    np.testing.assert_allclose(cosines(gram), cosines(router_gram(plain)), atol=1e-6)
    np.testing.assert_allclose(gram.norms, router_gram(plain).norms * scale, rtol=1e-5)
    unheld = router_gram(scaled, held_columns=0)
    np.testing.assert_allclose(cosines(unheld), cosines(gram), atol=1e-6)


def test_a_vector_shared_by_all_columns_changes_the_raw_view_alone():
    shared = ROUTERS.routers + 3 * RNG.standard_normal((L, D, 1)).astype(np.float32)
    offset = RouterSet(shared, norm_scales=ROUTERS.norm_scales)
    same = cosines(router_gram(offset)) - cosines(router_gram(ROUTERS))
    assert np.abs(same).max() < 1e-5
    raw = cosines(router_gram(offset, "raw")) - cosines(router_gram(ROUTERS, "raw"))
    assert np.abs(raw).max() > 0.3


def test_equal_experts_vanish_from_the_canonical_view_with_an_error_and_not_from_the_raw_one():
    routers = ROUTERS.routers.copy()
    routers[1] = routers[1, :, :1]
    equal = RouterSet(routers, ROUTERS.norm_scales, ROUTERS.layer_ids)
    with pytest.raises(LensError, match="Layer 4, expert 0: .* equals the mean .* the raw view"):
        router_gram(equal)
    assert np.isfinite(cosines(router_gram(equal, "raw"))).all()


def test_norm_scales_that_leave_float32_are_named():
    huge = RouterSet(ROUTERS.routers * np.float32(1e30), np.full((L, D), 1e30, np.float32))
    with pytest.raises(LensError, match="Layer 0: the router times its norm scale leaves"):
        router_gram(huge)


def test_more_columns_than_fit_in_memory_are_refused():
    many = RouterSet(RNG.standard_normal((40, 2, 1024)).astype(np.float32))
    with pytest.raises(LensError, match="40,960 router columns; at most 32,768"):
        router_gram(many)
    with pytest.raises(LensError, match="at most 10 are compared"):
        router_gram(ROUTERS, max_columns=10)


def test_standardised_inner_products_are_those_of_a_standard_scaler():
    from sklearn.preprocessing import StandardScaler

    routers = ROUTERS.routers.copy()
    routers[:, 5, 2] = 0.25  # the same in all layers
    found = standardized_gram(RouterSet(routers))
    rows = StandardScaler().fit_transform(routers.reshape(L, -1))
    np.testing.assert_allclose(found, rows @ rows.T, atol=1e-2)
