"""The four questions: planted answers are found, noise is not, few layers are called few."""

import re

import numpy as np
import pytest

from lens.experts.same_expert import matched_links
from lens.experts.unequal_experts import equal_experts
from lens.layers.similarity import layer_similarity
from lens.questions import Answer, ask_adjacent, four_questions
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet
from lens.stats.p_values import holm
from tests.lens.router_noise import noise as router_noise

RNG = np.random.default_rng(31)
ADJACENT, DEPTH, SAME, BREADTH = range(4)


def answers(routers: np.ndarray, **settings: object) -> list[Answer]:
    found = RouterSet(np.asarray(routers, np.float32), **settings)
    return four_questions(found, router_gram(found))


def noise(n_layers: int = 12, d_model: int = 120, n_experts: int = 8) -> np.ndarray:
    return RNG.standard_normal((n_layers, d_model, n_experts))


def drifting() -> np.ndarray:
    """Each layer a little changed from the one before, experts relabelled."""
    layer, layers = RNG.standard_normal((120, 8)), []
    for _ in range(12):
        layer = 0.8 * layer + 0.6 * RNG.standard_normal((120, 8))
        layers.append(layer[:, RNG.permutation(8)])
    return np.stack(layers)


def blocks() -> np.ndarray:
    """Thirds of the depth, each with a routing of its own; labels mean nothing."""
    thirds, layers = RNG.standard_normal((3, 256, 8)), []
    for layer in range(12):
        mixed = 0.6 * thirds[layer // 4] + RNG.standard_normal((256, 8))
        layers.append(mixed[:, RNG.permutation(8)])
    return np.stack(layers)


def matched_in_pairs() -> np.ndarray:
    """Layers whose experts go on in the next under other labels, and no further than that."""
    layers = RNG.standard_normal((13, 256, 8))
    chained = [0.8 * layers[i][:, RNG.permutation(8)] + layers[i + 1] for i in range(12)]
    return np.stack(chained)


def one_broad() -> np.ndarray:
    layers = noise(12, 256)
    layers[7, :, 3] *= 1.4
    return layers


def found_in(routers: np.ndarray) -> list[bool]:
    return [answer.distinguishable for answer in answers(routers)]


def test_layers_that_drift_answer_the_first_three_questions_with_yes():
    found = answers(drifting())
    for index in (ADJACENT, DEPTH, SAME):
        answer = found[index]
        assert answer.sentence.startswith("Yes")
        assert answer.p_value <= 0.002 and answer.distinguishable
        assert answer.effect > answer.null_high > answer.null_low


def test_known_blocks_of_depth_answer_the_first_three_questions_with_yes_and_not_the_fourth():
    assert [found_in(blocks()) for _ in range(3)] == [[True, True, True, False]] * 3


def test_known_matches_of_neighbours_are_found_though_labels_differ():
    for _ in range(3):
        found = answers(matched_in_pairs())
        assert found[SAME].distinguishable and found[SAME].effect > 0.3
        assert found[ADJACENT].distinguishable
        assert not found[BREADTH].distinguishable


def test_one_broad_expert_of_one_layer_is_found_and_named_and_nothing_else():
    for _ in range(3):
        found = answers(one_broad())
        assert [answer.distinguishable for answer in found] == [False, False, False, True]
        assert "L7·E3 is selected with probability 0." in found[BREADTH].sentence
        assert 0.04 < found[BREADTH].effect < 0.1


def test_experts_of_unequal_length_answer_the_fourth_with_yes_and_only_the_fourth():
    found = answers(noise() * np.linspace(0.7, 1.3, 8))
    assert [answer.sentence.startswith("Yes") for answer in found] == [False, False, False, True]


def test_noise_is_not_distinguishable_from_chance_in_words():
    """That the p-values are uniform is seen in test_calibration."""
    findings = 0
    for seed in range(12):
        found = answers(np.random.default_rng(seed).standard_normal((12, 256, 8)))
        findings += any(answer.distinguishable for answer in found)
        for answer in found:
            no = "Not distinguishable from chance"
            assert answer.sentence.startswith(no) != answer.distinguishable
    assert findings <= 2


def test_p_values_are_adjusted_for_four_questions_by_holm():
    found = answers(drifting())
    expected = holm(np.array([answer.p_value for answer in found]))
    np.testing.assert_allclose([answer.p_adjusted for answer in found], expected)
    few = answers(noise(2))
    assert np.isnan(few[ADJACENT].p_adjusted) and not few[ADJACENT].distinguishable
    assert few[SAME].p_adjusted == pytest.approx(
        holm(np.array([few[SAME].p_value, few[BREADTH].p_value]))[0]
    )


def test_draws_and_seed_are_settings_that_the_answers_keep():
    layers = RouterSet(noise().astype(np.float32))
    gram = router_gram(layers)
    first, other = (four_questions(layers, gram, draws=499, seed=seed) for seed in (1, 2))
    assert {(a.draws, a.seed) for a in first} == {(499, 1)}
    assert [a.p_value for a in first] != [a.p_value for a in other]
    assert "in 95 % of 499 draws" in first[ADJACENT].sentence


def test_layers_in_shuffled_order_are_alike_in_pairs_but_not_as_neighbours():
    family = np.array([0, 1] * 6)
    layers = RNG.standard_normal((2, 120, 8))[family] + 0.5 * noise()
    found = answers(layers)
    assert found[ADJACENT].p_value > 0.9  # neighbours are of different families
    assert found[DEPTH].p_value > 0.05


def test_every_sentence_states_effect_null_and_p():
    for answer in answers(drifting()):
        p = r"[=≤<] [\d.e−]+"
        ends = rf"in 95 % of \d+ draws.*; p {p} \(for four questions {p}\)\.$"
        assert re.search(ends, answer.sentence)
        assert answer.beats
        assert f"{answer.effect:.3g}" in answer.sentence
        assert answer.question.endswith("?")


def test_the_first_effect_is_the_difference_of_the_two_means():
    similarity = np.corrcoef(RNG.standard_normal((8, 20)))
    near = np.diagonal(similarity, 1).mean()
    far = similarity[np.triu_indices(8, 2)].mean()
    assert ask_adjacent(similarity).effect == pytest.approx(near - far)


def test_answers_ignore_labels_scales_and_shared_columns():
    layers = drifting()
    changed = np.stack([layer[:, RNG.permutation(8)] for layer in layers])
    changed = changed * RNG.uniform(0.5, 2, (12, 1, 1)) + RNG.standard_normal((12, 120, 1))
    for before, after in zip(answers(layers), answers(changed), strict=True):
        assert after.effect == pytest.approx(before.effect, abs=2e-3)


def test_the_same_routers_get_the_same_answers():
    layers = noise()
    assert answers(layers) == answers(layers)


@pytest.mark.parametrize("n_layers, askable", [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4)])
def test_with_few_layers_a_question_says_how_many_it_needs(n_layers, askable):
    found = answers(noise(n_layers))
    assert len(found) == 4
    unasked = [answer for answer in found if np.isnan(answer.p_value)]
    assert len(unasked) == 4 - askable
    for answer in unasked:
        assert re.search(r"it needs at least \d layers, and there (is|are) \d", answer.sentence)
        assert np.isnan(answer.effect) and not answer.distinguishable


def test_breadth_is_not_asked_where_weights_cannot_tell():
    assert "every token is sent to all 2 experts" in answers(noise(6, 20, 2))[BREADTH].sentence
    assert "half of the time" in answers(noise(6, 20, 4))[BREADTH].sentence
    weights = noise(6, 200, 4)
    biases = np.zeros((6, 4), np.float32)
    biases[2, 1] = 3 * np.sqrt(200)  # three spreads of a logit
    biased = answers(weights, biases=biases)
    assert biased[BREADTH].distinguishable and "L2·E1" in biased[BREADTH].sentence


def test_many_experts_and_few_dimensions_are_answered_too():
    for answer in answers(noise(7, 24, 20), top_k=4):
        assert np.isfinite([answer.effect, answer.null_low, answer.p_value]).all()


def test_the_third_answer_names_mixed_experts_and_the_absolute_zero():
    layers = RouterSet(drifting().astype(np.float32))
    gram = router_gram(layers)
    answer = four_questions(layers, gram)[SAME]
    similarity = layer_similarity(gram, "matched_cosine")
    assert answer.effect == pytest.approx(np.diagonal(similarity, 1).mean())
    assert answer.sentence.startswith("Yes, more than the directions that all layers share explain")
    zero = re.search(r"unrelated directions ([\d.]+) to ([\d.]+)", answer.sentence)
    assert 0 < float(zero[1]) < float(zero[2]) < answer.effect


@pytest.mark.parametrize("kind", ["shared γ, σ 0.5", "outlier × 15", "subspace of 32"])
def test_what_all_layers_share_is_no_finding(kind):
    """Against unrelated directions questions 3 and 4 said yes in nearly all of these sets."""
    findings = 0
    for seed in range(6):
        routers = router_noise(kind, seed)
        findings += any(a.distinguishable for a in four_questions(routers, router_gram(routers)))
    assert findings <= 1


def test_draws_that_were_made_already_give_the_same_answers():
    routers = RouterSet(drifting().astype(np.float32))
    gram = router_gram(routers)
    links, equal = matched_links(gram, draws=999), equal_experts(routers, gram)
    assert four_questions(routers, gram) == four_questions(routers, gram, links=links, equal=equal)
