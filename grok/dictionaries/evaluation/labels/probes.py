"""k-sparse probes: how well a few features tell labels that we own.

For each class, the k features whose means differ most between tokens in and out of it, over their
spread, go into a logistic regression; its score is balanced accuracy on windows that it did not
see, a mean over classes, so chance is 0.5. The expert that a token went to is told within each
domain: features are centred and classes weighted by domain, and scores are means over domains.
This model's experts were drawn to domains on purpose, which would otherwise be all that is told.

Axes: N tokens, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from grok.dictionaries.evaluation.labels.labelled import CLASSES, Labelled

SIZES = (1, 2, 5)  # k
FEWEST = 20  # tokens in and out of a class, of training; half as many to test on
RIDGE, STEPS = 1e-3, 12


class Label(NamedTuple):
    """of: classes [N]; names; within: groups that scores are told within [N]; units: what is
    shuffled together for the null [N]."""

    of: np.ndarray
    names: Sequence[str]
    within: np.ndarray
    units: np.ndarray


def probed(own: Labelled) -> dict[str, Any]:
    """Scores by label, of each method and k by group; `shuffled` is the dictionary's null."""
    even = np.unique(own.window, return_inverse=True)[1] % 2 == 0
    scores: dict[str, dict[str, list[list[float | None]]]] = {}
    for group in range(len(own.layers)):
        for name, label in _labels(own, own.layers[group]):
            by_method = scores.setdefault(name, {})
            for method, values in _representations(own, group, even):
                told = label
                if method == "shuffled":
                    told = label._replace(of=_shuffled(label))
                by_method.setdefault(method, []).append(accuracy(values, told, even))
    return {
        "tokens": len(own.tokens),
        "k": list(SIZES),
        "classes": {name: list(label.names) for name, label in _labels(own, own.layers[0])},
        "scores": scores,
    }


def _labels(own: Labelled, layer: int) -> Iterator[tuple[str, Label]]:
    one = np.zeros(len(own.tokens), int)
    yield "domain", Label(own.domain, own.domains, one, own.window)
    if own.classes is not None:
        yield "token class", Label(own.classes, CLASSES, one, np.arange(len(one)))
    if layer in own.experts:
        first = own.experts[layer][:, 0]
        names = [f"E{e}" for e in range(int(first.max()) + 1)]
        yield "first expert", Label(first, names, own.domain, np.arange(len(one)))


def _shuffled(label: Label) -> np.ndarray:
    """Labels of other units of the same group: windows, or tokens."""
    rng = np.random.default_rng(0)
    units, first, which = np.unique(label.units, return_index=True, return_inverse=True)
    of_unit, within = label.of[first].copy(), label.within[first]
    for group in np.unique(within):
        here = np.flatnonzero(within == group)
        of_unit[here] = of_unit[rng.permutation(here)]
    return np.asarray(of_unit[which])


def _representations(
    own: Labelled, group: int, train: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Values [N, F] of each method at one group."""
    for name, features in own.features.items():
        dense = _dense(features[group])
        yield name, dense
        if name == "dictionary":
            yield "shuffled", dense
    x = own.read[group].astype(np.float64)
    off = x - x[train].mean(0)
    _, axes = np.linalg.eigh(off[train].T @ off[train])
    yield "pca", (off @ axes).astype(np.float32)
    yield "coordinates", own.read[group]


def _dense(features: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(features.toarray(), np.float32)


def accuracy(values: np.ndarray, label: Label, train: np.ndarray) -> list[float | None]:
    """Balanced accuracy of probes on k features of values [N, F], for each k; None without a class.

    Args:
        values: of the features.
        label: what is to be told.
        train: tokens to learn from, the others are scored [N].
    """
    values = _centred(values, label.within, train)
    found = []
    for c in range(len(label.names)):
        inside = label.of == c
        weights = balanced(inside, label.within, FEWEST, train)
        scored = balanced(inside, label.within, FEWEST // 2, ~train)
        if weights.any() and scored.any():
            found.append([_score(values, inside, weights, scored, k) for k in SIZES])
    return [float(one) for one in np.mean(found, axis=0)] if found else [None] * len(SIZES)


def _score(
    values: np.ndarray, inside: np.ndarray, weights: np.ndarray, scored: np.ndarray, k: int
) -> float:
    at = weights > 0
    chosen = most_telling(values[at], inside[at], weights[at])[:k]
    own = values[:, chosen].astype(np.float64)
    fitted = logistic(own[at], inside[at], weights[at])
    said = own @ fitted[:-1] + fitted[-1] > 0
    return float((scored * (said == inside)).sum() / scored.sum())


def _centred(values: np.ndarray, within: np.ndarray, train: np.ndarray) -> np.ndarray:
    out = values.copy()
    for group in np.unique(within):
        here = within == group
        if (here & train).any():
            out[here] -= values[here & train].mean(0)
    return out


def balanced(
    inside: np.ndarray, within: np.ndarray, fewest: int, counted: np.ndarray
) -> np.ndarray:
    """Weights [N] with which both classes of each group count alike, and all groups alike.

    Groups with fewer tokens in or out of the class do not count.
    """
    weights = np.zeros(len(inside))
    for group in np.unique(within):
        here = counted & (within == group)
        sides = [here & inside, here & ~inside]
        if min(side.sum() for side in sides) >= fewest:
            for side in sides:
                weights[side] = 0.5 / side.sum()
    return weights


def most_telling(values: np.ndarray, inside: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Features by how far their means are apart over their spread, the first ones first."""
    means = [weights[side] @ values[side] / weights[side].sum() for side in (inside, ~inside)]
    square = weights @ np.square(values) / weights.sum()
    spread = np.sqrt(np.maximum(square - np.square(np.mean(means, axis=0)), 1e-20))
    return np.argsort(-np.abs(means[0] - means[1]) / spread, kind="stable")[: max(SIZES)]


def logistic(values: np.ndarray, inside: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients of a weighted logistic regression and, last, its constant [k + 1].

    Newton's method on standardised values, with a small ridge that keeps a class that is told
    without error from growing for ever.
    """
    shift = values.mean(0)
    scale = np.maximum(values.std(0), 1e-12)
    x = np.concatenate([(values - shift) / scale, np.ones((len(values), 1))], axis=1)
    weights = weights / weights.sum()
    own, ridge = np.zeros(x.shape[1]), RIDGE * np.eye(x.shape[1])
    ridge[-1, -1] = 1e-9
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ own, -30, 30)))
        gradient = x.T @ (weights * (inside - p)) - ridge @ own
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x + ridge
        own = own + np.linalg.solve(curvature, gradient)
    slopes = own[:-1] / scale
    return np.append(slopes, own[-1] - slopes @ shift)


def mean_scores(found: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Means over groups that have a score, by label and method, for each k; else empty."""
    return {
        label: {
            method: np.mean([one for one in own if None not in one] or np.zeros((1, 0)), 0).tolist()
            for method, own in methods.items()
        }
        for label, methods in found["scores"].items()
    }
