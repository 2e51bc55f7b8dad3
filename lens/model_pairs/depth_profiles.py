"""Profiles of two router sets over depth, whatever their widths and numbers of experts.

Axes: layer (of a set), place (the same relative depth in both).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.experts.selection import breadth
from lens.layers.draws import DRAWS, SEED
from lens.routers.gram import RouterGram, router_gram
from lens.routers.router_set import RouterSet
from lens.stats.draws import check_draws
from lens.stats.p_values import benjamini_hochberg, monte_carlo_p

MIN_LAYERS = 4


@dataclass(frozen=True, eq=False)
class Profile:
    """One quantity of the layers of two sets, over relative depth.

    Attributes:
        name: of the quantity.
        a, b: its values, layer by layer of each set.
        correlation: of both at the same relative depths; not a number where one of them
            is the same in all layers, or has fewer than 4.
        p: share of random orders of B's layers that correlate as strongly, either way.
        q: adjusted for all profiles (Benjamini–Hochberg).
        draws, seed: of the orders.
    """

    name: str
    a: Float[np.ndarray, " layer"]
    b: Float[np.ndarray, " other"]
    correlation: float
    p: float
    q: float
    draws: int
    seed: int


def depth_profiles(
    a: RouterSet, b: RouterSet, view: str = "canonical", *, draws: int = DRAWS, seed: int = SEED
) -> list[Profile]:
    """Unevenness of selection, effective rank and length of columns, compared over depth.

    - Unevenness: standard deviation of the experts' selection probabilities under an
      isotropic prior, over their mean K / E. 0 is perfect balance.
    - Effective rank: (Σλ)² / Σλ² / (E − 1) of a layer's Gram matrix. 1 if the experts
      differ in as many directions as they can; a quarter if in a quarter of them.
    - Length: mean norm of a layer's columns over that of all layers.

    All three need no common residual stream. Reading it: a correlation of 1 is the same
    course over depth. The null shuffles B's layers, which smooth change with depth in both
    sets already beats: p says that both change alike with depth, not why.

    Args:
        a, b: the sets.
        view: "canonical" or "raw".
        draws: random orders.
        seed: of the orders.
    """
    check_draws(draws)
    first, second = (_quantities(routers, view) for routers in (a, b))
    n = min(a.n_layers, b.n_layers)
    places = [same_depth(routers.n_layers, n) for routers in (a, b)]
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
    found = []
    for name, values in first.items():
        x, y = values[places[0]], second[name][places[1]]
        correlation = p = float("nan")
        if n >= MIN_LAYERS and _varies(x) and _varies(y):
            correlation = float(correlations(x, y[None])[0])
            null = np.abs(correlations(x, y[orders]))
            p = float(monte_carlo_p(abs(correlation), null))
        found.append((name, values, second[name], correlation, p))
    q = benjamini_hochberg(np.array([p for *_, p in found]))
    return [
        Profile(*one, q=float(adjusted), draws=draws, seed=seed)
        for one, adjusted in zip(found, q, strict=True)
    ]


def same_depth(n_layers: int, n: int) -> np.ndarray:
    """Rows of n layers that are spread evenly over a set, the first and the last included."""
    return np.rint(np.linspace(0, n_layers - 1, n)).astype(int)


def correlations(
    values: Float[np.ndarray, " entry"], rows: Float[np.ndarray, "draw entry"]
) -> Float[np.ndarray, " draw"]:
    """Pearson's correlation of one series with each of many."""
    first = values - values.mean()
    others = rows - rows.mean(axis=1, keepdims=True)
    size = np.sqrt((first @ first) * np.einsum("de,de->d", others, others))
    return (others @ first) / np.maximum(size, 1e-300)


def _quantities(routers: RouterSet, view: str) -> dict[str, Float[np.ndarray, " layer"]]:
    gram = router_gram(routers, view)
    selected = breadth(gram, routers.top_k, biases=routers.logit_biases).probability
    uneven = selected.std(axis=1) * routers.n_experts / routers.top_k
    if 2 * routers.top_k == routers.n_experts and routers.logit_biases is None:
        uneven = np.zeros_like(uneven)  # 1/2 for all, whatever the weights
    norms = gram.norms.mean(axis=1)
    return {
        "unevenness of selection": uneven,
        "effective rank of the router": effective_rank(gram),
        "length of router columns": norms / norms.mean(),
    }


def effective_rank(gram: RouterGram) -> Float[np.ndarray, " layer"]:
    """(Σλ)² / Σλ² of each layer's Gram matrix, over E − 1."""
    squares = (gram.own**2).sum(axis=(1, 2))
    traces = np.trace(gram.own, axis1=1, axis2=2)
    return traces**2 / squares / max(gram.n_experts - 1, 1)


def _varies(values: np.ndarray) -> bool:
    return bool(np.ptp(values) > 1e-9 * max(np.abs(values).max(), 1e-300))
