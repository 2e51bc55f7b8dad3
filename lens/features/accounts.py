"""Rows of an account of a route: the largest terms of what lifts one expert above another.

Axes: N terms, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from lens.errors import LensError


class Account(Protocol):
    """A router's logits for one token, taken apart; the runner's accounts have it."""

    @property
    def logits(self) -> np.ndarray: ...
    @property
    def kinds(self) -> tuple[str, ...]: ...
    @property
    def sites(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> np.ndarray: ...
    @property
    def features(self) -> np.ndarray: ...
    @property
    def values(self) -> np.ndarray: ...
    @property
    def contributions(self) -> np.ndarray: ...


class Term(NamedTuple):
    """One row. terms: that it stands for; group, feature: -1 where it is no feature."""

    kind: str
    site: str
    group: int
    feature: int
    value: float
    contribution: float
    terms: int = 1


def contributions(account: Account, expert: int, other: int | None = None) -> np.ndarray:
    """What each term gives to an expert's logit, or to it above another's [N].

    Raises:
        LensError: there is no such expert.
    """
    n = len(account.logits)
    for one in (expert, other):
        if one is not None and not 0 <= one < n:
            raise LensError(f"expert {one}: this router has experts 0 to {n - 1}. Choose another.")
    found: np.ndarray = account.contributions[:, expert]
    return found if other is None else found - account.contributions[:, other]


def largest_terms(
    account: Account, expert: int, other: int | None = None, *, n: int = 10
) -> list[Term]:
    """The features that give most, either way, then all else in a row a kind.

    The rows sum to the logit, or to the difference.

    Args:
        account: of a token at a router.
        expert: whose logit.
        other: the expert whose logit is taken off; None for none.
        n: features to show alone.

    Raises:
        LensError: there is no such expert.
    """
    given = contributions(account, expert, other)
    is_feature = np.array([kind == "feature" for kind in account.kinds])
    order = np.argsort(-np.abs(given), kind="stable")
    alone = [int(i) for i in order if is_feature[i]][:n]
    rows = [
        Term("feature", account.sites[i], int(account.groups[i]), int(account.features[i]),
             float(account.values[i]), float(given[i]))
        for i in alone
    ]  # fmt: skip
    left = [i for i in range(len(given)) if i not in set(alone)]
    kinds = dict.fromkeys(account.kinds[i] for i in left)
    for kind in sorted(kinds, key=lambda kind: kind != "feature"):
        own = [i for i in left if account.kinds[i] == kind]
        sites = {account.sites[i] for i in own}
        site = sites.pop() if len(sites) == 1 else ""
        rows.append(Term(kind, site, -1, -1, 1.0, float(given[own].sum()), len(own)))
    return rows


def in_order(terms: Sequence[Term]) -> list[Term]:
    """Terms in the order in which a reader adds them up.

    First what is no feature, then features as they stand, last what is missed and rounding.
    """
    last = ("error", "rounding")

    def place(term: Term) -> int:
        return 2 + last.index(term.kind) if term.kind in last else int(term.kind == "feature")

    return sorted(terms, key=place)


class Concentration(NamedTuple):
    """How few features make up a logit difference.

    features: that are active; for_80: the fewest whose sizes sum to 80 % of all of theirs; gini:
    of the sizes, 0 where all are equal; explained: their sum over the difference, which is 1 where
    biases and errors give nothing.
    """

    features: int
    for_80: int
    gini: float
    explained: float


def concentration(account: Account, expert: int, other: int) -> Concentration:
    """How few features lift one expert above another.

    Raises:
        LensError: there is no such expert.
    """
    given = contributions(account, expert, other)
    own = given[[kind == "feature" for kind in account.kinds]]
    sizes = np.sort(np.abs(own))[::-1]
    if not sizes.any():
        return Concentration(len(own), 0, 0.0, 0.0)
    share = np.cumsum(sizes) / sizes.sum()
    n = len(sizes)
    gini = float((n + 1 - 2 * (np.cumsum(sizes[::-1]) / sizes.sum()).sum()) / n)
    total = float(given.sum())
    explained = float(own.sum()) / total if total else float("nan")
    return Concentration(n, int(np.searchsorted(share, 0.8 - 1e-12) + 1), gini, explained)
