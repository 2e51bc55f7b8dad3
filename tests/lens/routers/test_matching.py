"""Experts matched between layers."""

import itertools

import numpy as np
import pytest

from lens.errors import LensError
from lens.routers.gram import router_gram
from lens.routers.matching import match_layers, nearest_experts
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(11)
L, D, E = 6, 300, 5
LABELS = np.stack([RNG.permutation(E) for _ in range(L)])  # the label of true expert k in layer l


def planted() -> RouterSet:
    """The same experts in all layers, under other labels in each, with some noise."""
    experts = RNG.standard_normal((D, E))
    routers = np.empty((L, D, E), np.float32)
    for layer in range(L):
        noisy = experts + 0.3 * RNG.standard_normal((D, E))
        routers[layer][:, LABELS[layer]] = noisy
    return RouterSet(routers)


GRAM = router_gram(planted())


def test_planted_experts_are_found_under_their_new_labels():
    for a, b in itertools.permutations(range(L), 2):
        partner, cosine = match_layers(GRAM, a, b)
        np.testing.assert_array_equal(partner[LABELS[a]], LABELS[b])
        assert cosine.min() > 0.85


def test_no_other_assignment_has_a_larger_total():
    noise = router_gram(RouterSet(RNG.standard_normal((2, 20, E)).astype(np.float32)))
    partner, cosine = match_layers(noise, 0, 1)
    block = noise.cosine_pair(0, 1)
    best = max(block[np.arange(E), list(order)].sum() for order in itertools.permutations(range(E)))
    assert sorted(partner) == list(range(E))
    assert cosine.sum() == pytest.approx(best)


def test_the_nearest_experts_are_the_planted_copies_in_order_of_their_cosine():
    expert = int(LABELS[2][0])
    nearest = nearest_experts(GRAM, 2, expert, L - 1)
    copies = {(layer, int(LABELS[layer][0])) for layer in range(L) if layer != 2}
    assert {(layer, e) for layer, e, _ in nearest} == copies
    cosines = [cosine for *_, cosine in nearest]
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] == GRAM.cosine_row(2)[expert, nearest[0][0], nearest[0][1]]


def test_nearest_experts_leave_out_the_own_layer_unless_asked():
    assert len(nearest_experts(GRAM, 0, 1, 999)) == (L - 1) * E
    everything = nearest_experts(GRAM, 0, 1, 999, other_layers=False)
    assert len(everything) == L * E - 1
    assert (0, 1) not in {(layer, expert) for layer, expert, _ in everything}


def test_layers_and_experts_that_do_not_exist_are_refused():
    with pytest.raises(LensError, match="row -1 was asked for; expected 0 to 5"):
        match_layers(GRAM, -1, 0)
    with pytest.raises(LensError, match="expert: 5 was asked for; expected 0 to 4"):
        nearest_experts(GRAM, 0, E)
