"""How much more often a feature's tokens go to one expert than others do.

P(e | feature active) − P(e), e the expert for which it is largest, a mean over features. This
model's training drew experts to domains, so the plain difference is mostly that of languages. What
counts is the difference within domains, and given the token: P(e) is then that of the other tokens
of the domain, or of the other occurrences of the token. Each stands beside the same with experts
shuffled among tokens of one domain, or among occurrences of one token.

Axes: N tokens, F features, E experts, K experts a token. No JAX here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from grok.dictionaries.evaluation.labels.labelled import Labelled

FEWEST = 32  # tokens in which a feature is active, for it to count
GIVEN = ("nothing", "domain", "token")
ABOVE = 0.99  # quantile of the shuffled ones


def specificity(own: Labelled) -> dict[str, Any]:
    """Measures by method and what is given, of each group with a router.

    Returns:
        `mean`: of all counted features; `shuffled`: the same with experts shuffled; `above`: share
        of features above 99 % of the shuffled ones; `features`: how many count, all by group.
    """
    n_experts = 1 + max((int(e.max()) for e in own.experts.values()), default=0)
    out: dict[str, Any] = {"tokens": len(own.tokens), "layers": [], "methods": {}}
    for group, layer in enumerate(own.layers):
        if layer not in own.experts:
            continue
        out["layers"].append(layer)
        went = (own.experts[layer][:, :, None] == np.arange(n_experts)).any(1).astype(float)
        for method, features in own.features.items():
            active = features[group].copy()
            active.data = np.ones_like(active.data, dtype=float)
            rows = out["methods"].setdefault(method, {})
            for given in GIVEN:
                for key, value in _of_layer(own, active, went, given).items():
                    rows.setdefault(given, {}).setdefault(key, []).append(value)
    return out


def _of_layer(
    own: Labelled, active: sparse.csr_matrix, went: np.ndarray, given: str
) -> dict[str, float | None]:
    units = {
        "nothing": np.zeros(len(own.tokens), int),
        "domain": own.domain,
        "token": own.tokens,
    }[given]
    found = strongest(active, went, units)
    null = strongest(active, went[shuffle_within(units)], units)
    counted = np.isfinite(found)
    if not counted.any():
        return {"mean": None, "shuffled": None, "above": None, "features": 0}
    level = np.quantile(null[counted], ABOVE)
    return {
        "mean": float(found[counted].mean()),
        "shuffled": float(null[counted].mean()),
        "above": float((found[counted] > level).mean()),
        "features": int(counted.sum()),
    }


def strongest(active: sparse.csr_matrix, went: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The largest difference over experts of each feature [F]; nan where too few tokens count.

    Args:
        active: 1 where a feature is active [N, F].
        went: 1 for the experts of each token [N, E].
        units: what is given of each token [N]; those that are alone in theirs do not count.
    """
    _, which, size = np.unique(units, return_inverse=True, return_counts=True)
    sums = np.zeros((len(size), went.shape[1]))
    np.add.at(sums, which, went)
    others = size[which] - 1
    counted = others > 0
    expected = (sums[which] - went) / np.maximum(others, 1)[:, None]
    rows = active[counted]
    tokens = np.asarray(rows.sum(0)).ravel()
    off = np.asarray(rows.T @ (went - expected)[counted])
    found = (off / np.maximum(tokens, 1)[:, None]).max(1)
    return np.where(tokens >= FEWEST, found, np.nan)


def shuffle_within(units: np.ndarray) -> np.ndarray:
    """A permutation [N] that keeps every token in its unit."""
    rng = np.random.default_rng(0)
    order = np.argsort(units, kind="stable")
    mixed = np.lexsort((rng.random(len(units)), units))
    out = np.empty(len(units), int)
    out[order] = mixed
    return out
