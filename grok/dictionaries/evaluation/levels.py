"""Dictionaries with another number of active features than they were trained for.

Thresholds are scaled by one factor for each group, chosen on text of training: what is then lost
at another level is an upper bound of what a dictionary trained for that level would lose.

Axes: S sites read, G groups, B tokens, F features, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from grok.dictionaries.kinds.design import Activation
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.parameters import encode
from grok.dictionaries.training.losses import Batch


class Level(NamedTuple):
    """A dictionary at some number of active features, and that number, by group [G]."""

    dictionary: Dictionary
    l0: np.ndarray


SMALLEST_THRESHOLD = 1e-6


def at_l0(
    dictionary: Dictionary, sample: Batch, levels: Sequence[float | np.ndarray]
) -> list[Level]:
    """The dictionary at some levels.

    Args:
        dictionary: of any rule; what it gives is a `jumprelu`, of a `topk` a `topk`.
        sample: tokens that thresholds are chosen on.
        levels: active features of a token: of each group [G], or one number, which groups that
            share their budgets reach together and others each alone.
    """
    n_groups = len(dictionary.design.groups)
    if dictionary.activation.function == "topk":
        return [_with_k(dictionary, int(np.round(np.mean(one))), n_groups) for one in levels]
    thresholds = np.maximum(_thresholds(dictionary), SMALLEST_THRESHOLD)
    tokens = sample.x.shape[1]
    wanted = [np.broadcast_to(np.asarray(one, float), (n_groups,)) for one in levels]
    together = [dictionary.activation.pooled and np.ndim(one) == 0 for one in levels]
    most = int(max(own.max() for own in wanted) * tokens * (n_groups if any(together) else 1)) + 2
    ratios = _largest_ratios(dictionary, sample, thresholds, most)
    pooled = np.sort(np.concatenate(ratios))[::-1] if any(together) else None
    found = []
    for own, one in zip(wanted, together, strict=True):
        if one:
            assert pooled is not None
            factors = np.full(n_groups, _cut(pooled, own.sum() * tokens))
        else:
            pairs = zip(ratios, own, strict=True)
            factors = np.array([_cut(ratio, k * tokens) for ratio, k in pairs])
        l0 = [float((r > f).sum() / tokens) for r, f in zip(ratios, factors, strict=True)]
        own_thresholds = (thresholds * factors[:, None]).astype(np.float32)
        rule = Activation("jumprelu", dictionary.activation.k, dictionary.activation.pooled)
        params = {**dictionary.params, "threshold": own_thresholds}
        changed = Dictionary(dictionary.design, rule, params, dictionary.facts)
        found.append(Level(changed, np.array(l0)))
    return found


def _with_k(dictionary: Dictionary, k: int, n_groups: int) -> Level:
    rule = Activation("topk", max(1, k), dictionary.activation.pooled)
    changed = Dictionary(dictionary.design, rule, dictionary.params, dictionary.facts)
    return Level(changed, np.full(n_groups, float(max(1, k))))


def _thresholds(dictionary: Dictionary) -> np.ndarray:
    """[G, F]; of a `relu` 1, so that pre-activations themselves are compared."""
    shape = (len(dictionary.design.groups), dictionary.design.features)
    own = dictionary.params.get("threshold")
    return np.ones(shape) if own is None else np.asarray(own, np.float64)


def _largest_ratios(
    dictionary: Dictionary, sample: Batch, thresholds: np.ndarray, most: int
) -> list[np.ndarray]:
    """The largest pre-activations over thresholds of each group, descending, at most so many."""
    design, out = dictionary.design, []
    pre = jax.device_get(_encoded(design, dictionary.params, sample.x, sample.chosen))
    for own, theta in zip(pre, thresholds, strict=True):
        ratio = (own / theta).ravel()
        n = min(most, ratio.size)
        largest = np.partition(ratio, ratio.size - n)[ratio.size - n :]
        out.append(np.sort(largest[largest > 0])[::-1])
    return out


_encoded = jax.jit(encode, static_argnames="design")


def _cut(descending: np.ndarray, count: float) -> float:
    """A factor that so many of the ratios are above."""
    n = round(count)
    if n >= len(descending):
        return SMALLEST_THRESHOLD
    return float((descending[n - 1] + descending[n]) / 2) if n else float(descending[0] + 1)
