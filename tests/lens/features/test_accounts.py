"""Rows of accounts and flips keep the sums that they are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

from lens.errors import LensError
from lens.features.accounts import concentration, largest_terms
from lens.features.flips import agreement
from lens.features.values import as_values


@dataclass(frozen=True)
class Planted:
    logits: np.ndarray
    kinds: tuple[str, ...]
    sites: tuple[str, ...]
    groups: np.ndarray
    features: np.ndarray
    values: np.ndarray
    contributions: np.ndarray


SHARES = np.array([[4.0, -4], [-1, 1], [1, -1], [2, -2], [0.5, -0.5], [0.25, -0.25]])
ACCOUNT = Planted(
    SHARES.sum(0),
    ("feature", "feature", "feature", "feature", "error", "rounding"),
    ("layers[1].resid_mid",) * 5 + ("layers[1].router.logits",),
    np.array([1, 1, 1, 1, -1, -1]),
    np.array([7, 3, 9, 2, -1, -1]),
    np.array([2.0, 1, 1, 1, 1, 1]),
    SHARES,
)


def test_the_largest_features_come_first_and_all_rows_sum_to_the_difference():
    rows = largest_terms(ACCOUNT, 0, 1, n=2)
    assert [(row.feature, row.contribution) for row in rows[:2]] == [(7, 8.0), (2, 4.0)]
    assert [(row.kind, row.terms, row.contribution) for row in rows[2:]] == [
        ("feature", 2, 0.0),
        ("error", 1, 1.0),
        ("rounding", 1, 0.5),
    ]
    assert sum(row.contribution for row in rows) == SHARES.sum(0) @ [1, -1]
    assert sum(row.contribution for row in largest_terms(ACCOUNT, 1)) == SHARES[:, 1].sum()
    with pytest.raises(LensError, match="expert 2: this router has experts 0 to 1"):
        largest_terms(ACCOUNT, 0, 2)


def test_concentration_tells_few_features_from_many():
    found = concentration(ACCOUNT, 0, 1)
    assert found[:2] == (4, 3) and found.explained == pytest.approx(12 / 13.5)
    even = Planted(**{**vars(ACCOUNT), "contributions": np.sign(SHARES)})
    assert concentration(even, 0, 1).gini == pytest.approx(0)
    assert 0 < found.gini < 1


class Checked(NamedTuple):
    predicted: np.ndarray
    measured: np.ndarray
    is_random: np.ndarray
    agrees: np.ndarray


def test_agreement_counts_features_apart_from_random_directions():
    check = Checked(
        np.array([1.0, 2, 4]),
        np.array([1.1, np.inf, 4]),
        np.array([False, False, True]),
        np.array([False, False, True]),
    )
    assert agreement(check)[:4] == (2, 0, 1, 1)
    assert agreement(check).worst == pytest.approx(0.1)


def test_results_are_json_without_numbers_that_it_lacks():
    text = json.dumps(as_values({"a": ACCOUNT, "b": np.array([np.inf, 1]), "rows": 1}))
    again = json.loads(text)
    assert again["b"] == [None, 1] and "rows" not in again
    assert again["a"]["contributions"][0] == [4, -4]
    assert as_values(Checked(*[np.float32(1)] * 4)) == dict.fromkeys(Checked._fields, 1.0)
