"""First lines of two runs: plain, with one number, and honest about few others."""

from __future__ import annotations

import numpy as np
import pytest

from lens.findings import of_pairs
from lens.prompt_pairs.interventions import Carried, among_others
from tests.headline_words import faults

OTHERS = "other experts of its layer"


def change(value: float, others: list[float], used: bool = True):
    among = among_others(value, np.array(others))
    return of_pairs.one_change("Banning L2·E4", "Without L2·E4", among, OTHERS, "", used=used)


def test_an_expert_that_matters_most_is_set_against_the_next():
    found = change(0.3, [0.1] * 7)
    assert found.sentence == (
        "Without L2·E4 the model's guesses change 3 times as much as without any of the other "
        "experts of its layer."
    )
    assert found.verdict == "not asked"  # eight experts can show no more than one in eight


def test_of_many_others_the_largest_is_a_finding():
    assert change(0.3, [0.1] * 40).found


@pytest.mark.parametrize(("value", "used"), [(0.1, True), (1e-9, False)])
def test_an_expert_like_the_others_is_not_told_from_chance(value, used):
    found = change(value, [0.2, 0.05, 0.0], used)
    assert found.verdict == "not told from chance"
    assert ("no token uses it" in found.sentence) == (not used)


@pytest.mark.parametrize("without", ["", "Without L2·E4"])
@pytest.mark.parametrize("value", [0.3, 5.0, 500.0, 0.1001])
def test_a_change_is_told_in_a_plain_line(value, without):
    among = among_others(value, np.array([0.1] * 7))
    done = "Router temperature 2 in L11"
    assert not faults(of_pairs.one_change(done, without, among, OTHERS, "").sentence)


@pytest.mark.parametrize("others", [0.0, 0.2, 0.99])
def test_the_expert_that_matters_most_is_named(others):
    size = np.full((3, 8), others)
    size[1, 2] = 1
    found = of_pairs.most_needed(size, (1, 2), "L1·E2", "")
    assert found.sentence.startswith("L1·E2 matters most") and not faults(found.sentence)


def test_no_expert_matters_where_nothing_changes():
    found = of_pairs.most_needed(np.zeros((3, 8)), (0, 0), "L0·E0", "")
    assert found.sentence.startswith("No expert matters")


@pytest.mark.parametrize("piece", ["▁self", "=", "≤σ", "\n"])
@pytest.mark.parametrize(("share", "control"), [(0.98, 0.1), (0.9, 0.5), (0.5, 0.49), (0.0, 0.0)])
def test_a_value_that_brings_the_answer_back_is_named(piece, share, control):
    found = of_pairs.brought_back(
        Carried(np.array([share]), np.array([3]), np.array([control])), "L3", piece, 3, ""
    )
    assert not faults(found.sentence), found.sentence
    assert (found.verdict == "not told from chance") == (control > 0.8 * share > 0)
