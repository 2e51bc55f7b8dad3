"""First lines of one routed text: plain, and nothing said where nothing is found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from lens.errors import LensError
from lens.findings import of_texts
from lens.traces.contrast import Contrast, EqualTokens
from tests.headline_words import faults

N_EXPERTS = 8
NAMES = [f"L{layer}" for layer in range(64)]


@dataclass
class Routed:
    experts: np.ndarray
    router_logits: np.ndarray


def routed(n_layers: int, n_tokens: int, always: dict[int, int] | None = None, share: float = 1):
    """Random choices of two experts; in some layers one expert takes a share of the tokens."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((n_layers, n_tokens, N_EXPERTS))
    for layer, expert in (always or {}).items():
        logits[layer, : round(share * n_tokens), expert] += 9
    experts = np.argsort(-logits, axis=-1)[..., :2]
    return Routed(experts, logits)


@pytest.mark.parametrize("n_tokens", [1, 2, 6, 40, 300])
@pytest.mark.parametrize("always", [{}, {1: 3}, {0: 2, 1: 3}])
@pytest.mark.parametrize("share", [0.9, 1.0])
def test_the_busiest_expert_is_told_in_a_plain_line(n_tokens, always, share):
    found = of_texts.busiest_expert(routed(2, n_tokens, always, share), NAMES)
    assert not faults(found.sentence), found.sentence
    assert f"Of {n_tokens} token" in found.detail


def test_an_expert_that_gets_every_token_is_said_to():
    found = of_texts.busiest_expert(routed(2, 60, {1: 3}), NAMES)
    assert found.found
    assert found.sentence == "L1·E3 gets every token of this text."
    assert "50\u00a0% of its layer's assignments, which is 100\u00a0% of the tokens" in found.detail


def test_where_several_experts_tie_none_of_them_is_named():
    found = of_texts.busiest_expert(routed(3, 60, {0: 2, 1: 3}), NAMES)
    assert found.sentence == "In 2 of 3 layers one expert gets every token of this text."


def test_a_share_is_one_of_tokens():
    found = of_texts.busiest_expert(routed(1, 200, {0: 5}, share=0.9), NAMES)
    taken = (routed(1, 200, {0: 5}, share=0.9).experts[0] == 5).any(axis=-1).mean()
    assert f"L0·E5 gets {100 * taken:.0f}\u00a0% of the tokens" in found.sentence


def test_nothing_is_found_in_choices_that_prefer_nothing():
    found = of_texts.busiest_expert(routed(12, 40), NAMES)
    assert not found.found and found.sentence.startswith("No expert gets more")


def test_one_token_has_no_preference():
    found = of_texts.busiest_expert(routed(12, 1), NAMES)
    assert found.verdict == "not asked" and "Of 1 token," in found.detail


@pytest.mark.parametrize(
    ("inside", "outside", "p", "sentence"),
    [
        (
            0.86,
            0.0,
            0.01,
            "L2·E3 takes 86\u00a0% of the German words and none of the English.",
        ),
        (1.0, 0.2, 0.01, "L2·E3 takes all of the German words and few of the English."),
        (0.0, 1.0, 0.01, "L2·E3 takes all of the English and none of the German words."),
        (0.9, 0.1, 0.3, "No expert tells German words from English by more than chance."),
    ],
)
def test_a_kind_of_token_has_an_expert_of_its_own_or_none(inside, outside, p, sentence):
    contrast = Contrast(2, 3, inside, outside, p, 0.4, 20, 20, 39)
    kind = np.arange(40) >= 20
    found = of_texts.kind_contrast(contrast, "L2·E3", ("German words", "English"), kind)
    assert found.sentence == sentence and not faults(sentence)
    assert found.found == (p <= 0.05)


@pytest.mark.parametrize("p", [0.001, 0.05, 0.4])
def test_equal_tokens_are_told_by_what_they_share_beyond_their_neighbours(p):
    equal = EqualTokens(np.full(2, 0.74), np.full(2, 0.3), 0.5, p, 1, 999, 0)
    found = of_texts.equal_tokens_share(equal)
    assert not faults(found.sentence)
    assert found.found == ("74\u00a0%" in found.sentence) == (p <= 0.05)
    assert "(1 pair;" in found.detail


def test_a_continuation_that_is_too_short_says_so():
    found = of_texts.generated_tokens(LensError("too few"), "in full")
    assert found.verdict == "not asked" and not faults(found.sentence)
