"""Experts followed through depth for as long as their matches beat mixed experts."""

import numpy as np
import pytest

from lens.experts.chains import significant_chains
from lens.routers.gram import RouterGram, gram_of_columns

RNG = np.random.default_rng(61)
L, D, E = 8, 300, 6


def gram_of(layers: np.ndarray) -> RouterGram:
    layers = np.asarray(layers, np.float32)
    return gram_of_columns(layers - layers.mean(axis=2, keepdims=True))


def planted() -> tuple[RouterGram, list[list[int]]]:
    """Noise with one direction that lives from layer 2 to 6, as an expert of varying label."""
    layers = RNG.standard_normal((L, D, E))
    direction = RNG.standard_normal(D)
    labels = []
    for layer in range(2, 7):
        expert = int(RNG.integers(E))
        layers[layer, :, expert] = direction + 0.3 * RNG.standard_normal(D)
        labels.append([layer, expert])
    return gram_of(layers), labels


def test_a_planted_chain_is_born_and_ends_where_it_was_planted():
    gram, labels = planted()
    found = significant_chains(gram)
    longest = found.chains[0]
    assert (longest.first, longest.last, len(longest)) == (2, 6, 5)
    assert list(longest.experts) == [expert for _, expert in labels]
    assert min(longest.scores) > 0.7 and len(longest.scores) == 4
    assert [found.chain_of(layer, expert) for layer, expert in labels] == [longest] * 5
    assert longest.expert_at(4) == labels[2][1]
    assert longest.expert_at(1) is None and longest.expert_at(7) is None


def test_every_expert_of_every_layer_is_in_exactly_one_chain():
    gram, _ = planted()
    found = significant_chains(gram)
    members = [(c.first + i, e) for c in found.chains for i, e in enumerate(c.experts)]
    assert len(members) == L * E and set(members) == {(a, e) for a in range(L) for e in range(E)}
    links = sum(len(c) - 1 for c in found.chains)
    assert links == found.n_beyond == np.count_nonzero(found.links.q <= 0.05)
    lengths = [len(c) for c in found.chains]
    assert lengths == sorted(lengths, reverse=True)


def test_scores_and_partners_are_those_of_the_best_assignment():
    gram, _ = planted()
    found = significant_chains(gram, draws=100)
    for link in range(L - 1):
        cosines = gram.cosine_pair(link, link + 1)
        np.testing.assert_allclose(
            found.links.score[link], cosines[np.arange(E), found.links.partner[link]]
        )
        assert sorted(found.links.partner[link]) == list(range(E))


def test_noise_has_no_chains_and_p_values_that_are_uniform():
    p, longer = [], 0
    for seed in range(60):
        found = significant_chains(gram_of(RNG.standard_normal((4, 80, E))), draws=200, seed=seed)
        p.append(found.links.p.ravel())
        longer += found.n_beyond > 0
    assert longer <= 8  # of 60; 5 % expected
    values = np.sort(np.concatenate(p))
    expected = (np.arange(len(values)) + 0.5) / len(values)
    assert np.abs(values - expected).max() < 0.06


def test_relabelling_experts_keeps_the_chains():
    gram, _ = planted()
    order = [RNG.permutation(E) for _ in range(L)]
    held = gram.held.copy()
    for layer, new in enumerate(order):
        held[layer] = held[layer][new]
        held[:, :, layer] = held[:, :, layer][:, :, new]
    layers = np.arange(L)
    renamed = RouterGram(held[layers, :, layers], gram.sums, D, held=held)
    before, after = significant_chains(gram), significant_chains(renamed)
    assert len(before.chains[0]) == len(after.chains[0])
    for layer in range(2, 7):
        old = before.chains[0].expert_at(layer)
        assert order[layer][after.chains[0].expert_at(layer)] == old


def test_draws_seed_and_null_are_kept():
    found = significant_chains(gram_of(RNG.standard_normal((3, 60, 20))), draws=1000, seed=7)
    assert (found.links.draws, found.links.seed, found.level) == (120, 7, 0.05)  # 20 experts a draw
    assert 0 < found.links.null_mean < found.links.null_high
    assert found.unrelated_mean == pytest.approx(found.links.null_mean, rel=0.1)  # nothing shared


def test_a_single_layer_has_chains_of_one_expert_each():
    found = significant_chains(gram_of(RNG.standard_normal((1, 60, E))))
    assert [len(c) for c in found.chains] == [1] * E and found.n_beyond == 0
    assert found.links is None and found.n_links == found.n_steps == 0


def test_a_subspace_that_all_layers_read_makes_no_chain_and_stands_above_unrelated_directions():
    seen = 0
    for seed in range(10):
        rng = np.random.default_rng([seed, 5])
        frame = np.linalg.qr(rng.standard_normal((D, 16)))[0]
        found = significant_chains(gram_of(frame @ rng.standard_normal((L, 16, E))))
        assert found.unrelated_mean < 0.5 * found.links.null_mean
        seen += found.n_beyond > 0 or found.links.mean_p <= 0.01
    assert seen <= 1  # unrelated directions are beaten in all ten


@pytest.mark.parametrize("level", [0.0, 1.1])
def test_the_level_decides_which_links_count(level):
    gram, _ = planted()
    found = significant_chains(gram, level=level, draws=50)
    assert len(found.chains) == (E if level > 1 else L * E)
