"""Experts shared by neighbouring tokens of a text.

Axes: layer (L), token (T), expert (E), choice (K), draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.recipe.steps import remembered
from lens.stats.draws import affordable_draws, check_draws
from lens.stats.permutation_tests import DRAWS, SEED, AgainstChance, against_chance, shuffled_orders
from lens.traces.protocols import RoutedTokens


@dataclass(frozen=True, eq=False)
class RepeatRate:
    """Share of tokens whose experts are those of the token before them.

    Attributes:
        first: share of neighbours with the same first choice.
        any: share of neighbours that have at least one choice in common.
        chance_first: value of `first` for even, independent choices: 1 / E.
        chance_any: value of `any`: 1 − C(E − K, K) / C(E, K).
        shuffled_first: value of `first` for the same choices in random order.
        shuffled_any: value of `any` for the same choices in random order.
    """

    first: Float[np.ndarray, " layer"]
    any: Float[np.ndarray, " layer"]
    chance_first: float
    chance_any: float
    shuffled_first: Float[np.ndarray, " layer"]
    shuffled_any: Float[np.ndarray, " layer"]


@remembered
def repeat_rate(trace: RoutedTokens, *, tokens: slice = slice(None)) -> RepeatRate:
    """Share of neighbouring tokens that go to the same experts.

    Reading it: for top 2 of 8, even and independent choices repeat the first in
    12.5 % and share either in 46.4 % of the neighbours. Uneven loads alone raise
    both; the shuffled values, exact means over all orders of these tokens, hold
    the loads fixed, so what exceeds them is due to the order of the text.

    Raises:
        LensError: fewer than two tokens in the part asked for.
    """
    experts = trace.experts[:, tokens]
    n_layers, n_tokens, top_k = experts.shape
    n_experts = trace.router_logits.shape[2]
    if n_tokens < 2:
        raise LensError(
            f"Routing statistics: {n_tokens} tokens in this part of the trace; expected at least "
            "2. Choose a longer text or another part."
        )
    same_first = experts[:, 1:, 0] == experts[:, :-1, 0]
    shared = (experts[:, 1:, :, None] == experts[:, :-1, None, :]).any(axis=(2, 3))
    counts = np.stack([np.bincount(row, minlength=n_experts) for row in experts[:, :, 0]])
    pairs = n_tokens * (n_tokens - 1)
    shuffled_any = np.empty(n_layers)
    for layer in range(n_layers):
        sets, times = np.unique(np.sort(experts[layer], axis=1), axis=0, return_counts=True)
        member = np.zeros((len(sets), n_experts))
        np.put_along_axis(member, sets, 1, axis=1)
        meet = (member @ member.T) > 0.5
        shuffled_any[layer] = (times @ meet @ times - n_tokens) / pairs
    return RepeatRate(
        first=same_first.mean(axis=1),
        any=shared.mean(axis=1),
        chance_first=1 / n_experts,
        chance_any=1 - math.comb(n_experts - top_k, top_k) / math.comb(n_experts, top_k),
        shuffled_first=(counts * (counts - 1)).sum(axis=1) / pairs,
        shuffled_any=shuffled_any,
    )


@dataclass(frozen=True, eq=False)
class RepeatTest:
    """Repeat rates beside those of the same tokens in random order.

    Attributes:
        first: of the first choice.
        any: of any choice.
    """

    first: AgainstChance
    any: AgainstChance


@remembered
def repeat_test(
    experts: Int[np.ndarray, "layer token choice"],
    n_experts: int,
    *,
    groups: Int[np.ndarray, " token"] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> RepeatTest:
    """Experts shared by neighbouring tokens, against the same tokens shuffled.

    Every draw puts the tokens into a random order, the same for all layers: loads and pairs
    of experts stay. p-values are two-sided.

    Args:
        experts: `trace.experts`.
        n_experts: experts of a layer.
        groups: number of the text of each token; texts are shuffled each within itself, and
            the last token of one is no neighbour of the next one's first.
        draws: orders; fewer where a text is very long.
        seed: of the orders.

    Raises:
        LensError: there are no neighbours, or too few draws.
    """
    n_layers, n_tokens, _ = experts.shape
    neighbours = (
        np.ones(max(n_tokens - 1, 0), bool) if groups is None else groups[1:] == groups[:-1]
    )
    if not neighbours.any():
        raise LensError(
            f"Repeats: {n_tokens} tokens without neighbours; expected at least two of one text."
        )
    words = _member_words(experts, n_experts)
    draws = affordable_draws(words.size, check_draws(draws))
    first = experts[:, :, 0]
    rng = np.random.default_rng(seed)
    drawn = np.empty((draws, 2, n_layers))
    for draw in range(draws):
        order = shuffled_orders(rng, n_tokens, groups)
        drawn[draw] = _rates(first[:, order], words[:, :, order], neighbours)
    own = _rates(first, words, neighbours)
    within = "" if groups is None else " within each text"
    method = f"tokens put into a random order{within}, {draws:,} times"
    tests = [
        against_chance(own[i], drawn[:, i], seed=seed, method=method, tail="both") for i in (0, 1)
    ]
    return RepeatTest(*tests)


def _member_words(experts: np.ndarray, n_experts: int) -> np.ndarray:
    """The chosen experts of each token as bits of as many words as are needed."""
    words = np.zeros((-(-n_experts // 64), *experts.shape[:2]), dtype=np.uint64)
    layer, token, _ = np.indices(experts.shape)
    bits = np.uint64(1) << (experts % 64).astype(np.uint64)
    np.bitwise_or.at(words, (experts // 64, layer, token), bits)
    return words


def _rates(first: np.ndarray, words: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Shares of neighbours with the same first choice, and with any choice in common."""
    same = (first[:, 1:] == first[:, :-1]) & neighbours
    shared = ((words[:, :, 1:] & words[:, :, :-1]) != 0).any(axis=0) & neighbours
    return np.stack([same.sum(axis=1), shared.sum(axis=1)]) / np.count_nonzero(neighbours)
