"""Trees, cuts and agreement with depth beside what drawn sets give."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from lens.clustering.reference_sets import ClusteredLayers, ClusterSettings, clustered_layers
from lens.clustering.tree_null import (
    WEAK,
    GroupNull,
    blocks,
    depth_agreement_null,
    group_null,
    group_numbers,
    groups_finding,
    groups_in_words,
    shuffled_classic_scores,
    summary,
    tree_scores,
)
from lens.clustering.trees import (
    classic_tree,
    cut_tree,
    depth_agreement,
    layer_tree,
    silhouette,
)
from lens.errors import LensError
from lens.layers.references import Reference
from lens.routers.gram import gram_of_columns
from lens.routers.router_set import RouterSet

RNG = np.random.default_rng(61)
GROUPS = np.array([0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 2, 1])


def noise(n_layers: int, d_model: int = 48, n_experts: int = 4) -> np.ndarray:
    found = RNG.standard_normal((n_layers, d_model, n_experts)).astype(np.float32)
    return found - found.mean(axis=2, keepdims=True)


def layers_of(columns: np.ndarray, reference: Reference = "unrelated") -> ClusteredLayers:
    """All of the layers: groups in so few columns would be among the largest directions."""
    settings = ClusterSettings(reference=reference, directions=0)
    return clustered_layers(RouterSet(columns), settings)


def found_in(layers: ClusteredLayers, **options: int) -> GroupNull:
    return group_null(layers, layer_tree(layers.gram), **options)


def planted(reference: Reference = "unrelated") -> ClusteredLayers:
    """12 layers of 3 kinds in mixed order."""
    return layers_of(noise(3, 96)[GROUPS] + 0.5 * noise(12, 96), reference)


@pytest.mark.parametrize(
    ("reference", "beaten", "drawn"),
    [
        ("shared", "the directions that all layers share", "layers mixed from all layers"),
        ("unrelated", "unrelated directions", "unrelated layers"),
        ("shuffled", "shuffled coordinates", "layers with shuffled coordinates"),
    ],
)
def test_planted_groups_stand_out_at_their_number(reference, beaten, drawn):
    null = found_in(planted(reference), draws=99)
    assert null.best is not None and null.k[null.best] == 3
    assert null.p_any[null.best] == pytest.approx(0.01)
    assert null.silhouette[null.best] > WEAK > null.high[null.best]
    words = groups_in_words(null)
    assert words.startswith(f"3 groups stand out beyond {beaten}: silhouette 0.")
    assert f"{drawn} give" in words
    assert "in 95 % of 99 draws; p ≤ 0.01 for 10 cuts together" in words
    assert null.cophenetic > null.cophenetic_band[2] and null.cophenetic_p <= 0.01


def test_p_values_of_noise_are_uniform_for_one_number_and_for_all_together():
    one, least, fits = [], [], []
    for _ in range(150):
        null = found_in(layers_of(noise(6, 24, 3)), draws=19, seed=int(RNG.integers(2**31)))
        one.append(null.p[1])
        least.append(np.nanmin(null.p_any))
        fits.append(null.cophenetic_p)
    for found in (one, least, fits):
        spread = np.array(found) - RNG.uniform(0, 1 / 20, 150)  # steps of 1 / 20
        assert kstest(spread, "uniform").pvalue > 0.001
    assert np.mean(np.array(least) <= 0.05) < 0.12


def test_noise_is_not_distinguishable_from_chance_in_words():
    words = []
    for _ in range(10):
        words.append(groups_in_words(found_in(layers_of(noise(8, 200)), draws=19)))
    none = "No number of groups stands out beyond unrelated directions: at best"
    assert sum(text.startswith(none) for text in words) >= 7
    assert not any("stand out" in text for text in words)  # nor are they compact by chance


def test_a_slow_change_along_depth_is_no_compact_groups():
    layer, layers = noise(1, 300)[0], []
    for _ in range(14):
        layer = 0.6 * layer + 0.8 * noise(1, 300)[0]
        layers.append(layer)
    null = found_in(layers_of(np.stack(layers)), draws=99)
    assert null.p_any[null.best] <= 0.05
    assert groups_in_words(null).startswith("No compact groups, at best ")
    assert "are more alike than unrelated directions make them" in groups_in_words(null)


@pytest.mark.parametrize("method", ["average", "ward"])
def test_scores_are_silhouettes_of_every_cut_and_the_cophenetic_correlation(method):
    tree = layer_tree(planted().gram, method=method)
    scores = tree_scores(tree.distances, method)
    cuts = group_numbers(12)
    assert cuts.tolist() == list(range(2, 12))
    expected = [silhouette(tree.distances, cut_tree(tree, k)) for k in cuts]
    np.testing.assert_allclose(scores, [*expected, tree.cophenetic])


def test_numbers_of_groups_end_at_twelve_and_below_the_number_of_layers():
    assert group_numbers(128)[-1] == 12
    assert [len(group_numbers(n)) for n in (1, 2, 3, 4)] == [0, 0, 1, 2]


def test_the_classic_tree_has_a_null_of_shuffled_coordinates():
    kinds = RNG.standard_normal((2, 60, 4))
    layers = kinds[np.arange(10) % 2] + 0.7 * RNG.standard_normal((10, 60, 4))
    routers = RouterSet(layers.astype(np.float32))
    tree = classic_tree(routers)
    null = summary(tree, shuffled_classic_scores(routers, 60, 3), 3)
    assert null.reference == "shuffled"
    assert null.k[null.best] == 2 and null.p_any[null.best] <= 1 / 60
    unrelated = RouterSet(RNG.standard_normal((10, 60, 4)).astype(np.float32))
    drawn = shuffled_classic_scores(unrelated, 60, 3)
    assert np.nanmin(summary(classic_tree(unrelated), drawn, 3).p_any) > 0.02


def test_blocks_hold_all_draws_and_differ():
    made = blocks(60, 5)
    assert [n for n, _ in made] == [25, 25, 10]
    assert len({seed for _, seed in made}) == 3
    assert made == blocks(60, 5) and made != blocks(60, 6)
    assert blocks(100, 5)[:2] == made[:2]  # more draws go on where fewer ended


def test_the_same_seed_gives_the_same_null():
    layers = planted("shared")
    first, again = (found_in(layers, draws=30, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.mean, again.mean)
    assert (found_in(layers, draws=30, seed=5).mean != first.mean).any()


@pytest.mark.parametrize("n", [2, 3])
def test_very_few_layers_have_a_null_as_far_as_they_have_cuts(n):
    null = found_in(layers_of(noise(n)), draws=19)
    assert len(null.k) == n - 2
    assert (null.best is None) == (n == 2)
    assert np.isnan(null.cophenetic) == (n == 2)
    assert groups_in_words(null)


def test_layers_all_alike_have_no_finding():
    gram = gram_of_columns(np.repeat(noise(1), 5, axis=0))
    settings = ClusterSettings(reference="unrelated")
    null = found_in(ClusteredLayers(RouterSet(noise(5)), gram, settings), draws=19)
    assert not groups_in_words(null).endswith("stand out")
    assert null.best is None or null.p_any.shape == (3,)


def test_too_few_draws_are_refused():
    with pytest.raises(LensError, match="draws: found 5; expected 19"):
        found_in(planted(), draws=5)


def test_shuffled_depths_are_scikit_learns_adjusted_rand_index_over_shuffles():
    from sklearn.metrics import adjusted_rand_score

    labels = RNG.integers(1, 4, 14)
    found = depth_agreement_null(labels, draws=2000)
    assert found.value == pytest.approx(depth_agreement(labels))
    thirds = np.arange(14) * 3 // 14
    drawn = [adjusted_rand_score(RNG.permutation(thirds), labels) for _ in range(1000)]
    assert found.mean == pytest.approx(np.mean(drawn), abs=0.02)
    assert abs(found.mean) < 0.02  # the index is adjusted so
    np.testing.assert_allclose(
        [found.low, found.high], np.quantile(drawn, [0.025, 0.975]), atol=0.08
    )
    assert found.p == pytest.approx(np.mean(np.array(drawn) >= found.value), abs=0.05)


def test_groups_that_are_the_thirds_agree_with_depth_and_random_ones_rarely():
    assert depth_agreement_null(np.repeat([1, 2, 3], 5)).p <= 0.002
    p_values = [depth_agreement_null(RNG.integers(1, 4, 30), draws=199).p for _ in range(200)]
    assert np.mean(np.array(p_values) <= 0.05) < 0.1
    assert kstest(p_values, "uniform").pvalue > 0.001


def test_one_group_agrees_with_depth_no_more_than_chance():
    found = depth_agreement_null(np.ones(9, int), draws=99)
    assert found.p == 1 and found.value == found.mean


@pytest.mark.parametrize(
    "p, silhouette, drifts, sentence",
    [
        (0.4, 0.02, True, "No groups of layers stand out from chance."),
        (0.001, 0.02, True, "No clear-cut groups: layers drift with depth."),
        (0.001, 0.02, False, "No clear-cut groups, though some layers are more alike than"),
        (0.001, 0.6, True, "The layers form 3 groups."),
    ],
)
def test_the_sentence_on_groups_says_only_what_the_numbers_say(p, silhouette, drifts, sentence):
    null = found_in(layers_of(noise(8, 200)), draws=19)
    silhouettes, p_any = np.full(len(null.k), -0.5), np.full(len(null.k), 1.0)
    row = int(np.flatnonzero(null.k == 3)[0])
    silhouettes[row], p_any[row] = silhouette, p
    found = groups_finding(replace(null, silhouette=silhouettes, p_any=p_any), drifts)
    assert found.sentence.startswith(sentence)
    assert found.found == (p <= 0.05) and found.effect == silhouette
