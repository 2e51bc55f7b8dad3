"""Questions 1 and 2: are adjacent layers alike, and do early and late ones form groups?

Both are set against the model's own layers in a random order.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.clustering.trees import depth_terciles
from lens.questions.answer import (
    DRAWS,
    SEED,
    Asked,
    Plain,
    Question,
    Words,
    band,
    too_few,
)
from lens.stats.p_values import monte_carlo_p
from lens.words import ratio_in_words, significant

MIN_ADJACENT = 4
MIN_DEPTH = 6

ADJACENT = Question(
    "adjacent",
    "Do adjacent layers have similar routing patterns?",
    "mean CKA of adjacent layers minus that of all other pairs",
)
DEPTH = Question(
    "depth",
    "Do early and late layers cluster separately?",
    "mean CKA within the early and the late third minus that between them",
)


def ask_adjacent(
    similarity: Float[np.ndarray, "layer layer"], draws: int = DRAWS, seed: int = SEED
) -> Asked:
    """Asks if neighbours are more alike than other pairs, against shuffled layer orders."""
    n = len(similarity)
    if n < MIN_ADJACENT:
        return too_few(ADJACENT, n, MIN_ADJACENT)
    n_pairs = n * (n - 1) // 2
    total = np.triu(similarity, 1).sum()

    def effects(orders: np.ndarray) -> np.ndarray:
        beside = similarity[orders[:, :-1], orders[:, 1:]].sum(axis=1)
        return beside / (n - 1) - (total - beside) / (n_pairs - n + 1)

    effect = float(effects(np.arange(n)[None])[0])
    null = effects(_shuffles(n, draws, seed))
    neighbours = float(np.diagonal(similarity, 1).mean())

    def words(real: bool, p: str) -> str:
        found = (
            f"adjacent layers have a mean CKA of {significant(neighbours)}, other pairs "
            f"{significant(neighbours - effect)}"
        )
        against = f"shuffled layer orders give a difference of {band(null)}; {p}"
        return _in_full(real, found, effect, against)

    def plain(real: bool) -> str:
        if not real:
            return "Neighbouring layers route no more alike than layers in a random order."
        ratio = ratio_in_words(neighbours, neighbours - effect)
        return f"Neighbouring layers route alike, {ratio} other pairs."

    return _asked(ADJACENT, effect, null, words, plain)


def ask_depth(
    similarity: Float[np.ndarray, "layer layer"], draws: int = DRAWS, seed: int = SEED
) -> Asked:
    """Asks if the first and the last third of the layers form groups, against shuffled depths."""
    n = len(similarity)
    if n < MIN_DEPTH:
        return too_few(DEPTH, n, MIN_DEPTH)
    tercile = depth_terciles(n)
    early, late = np.flatnonzero(tercile == 0), np.flatnonzero(tercile == 2)

    def parts(orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = np.zeros(orders.shape)
        last = np.zeros(orders.shape)
        np.put_along_axis(first, orders[:, early], 1.0, axis=1)
        np.put_along_axis(last, orders[:, late], 1.0, axis=1)
        off = similarity - np.diag(np.diagonal(similarity))
        inside = ((first @ off) * first).sum(axis=1) + ((last @ off) * last).sum(axis=1)
        n_inside = len(early) * (len(early) - 1) + len(late) * (len(late) - 1)
        between = ((first @ off) * last).sum(axis=1) / (len(early) * len(late))
        return inside / n_inside, between

    inside_mean, between_mean = (float(part[0]) for part in parts(np.arange(n)[None]))
    inside, across = parts(_shuffles(n, draws, seed))
    null = inside - across

    def words(real: bool, p: str) -> str:
        found = (
            f"mean CKA is {significant(inside_mean)} within the first and the last third of the "
            f"layers and {significant(between_mean)} between them"
        )
        against = f"shuffled depths give a difference of {band(null)}; {p}"
        return _in_full(real, found, inside_mean - between_mean, against)

    def plain(real: bool) -> str:
        if not real:
            return "Early and late layers don't route differently."
        ratio = ratio_in_words(inside_mean, between_mean)
        return f"Early and late layers route differently: inside a group they agree {ratio} across."

    return _asked(DEPTH, inside_mean - between_mean, null, words, plain)


def _in_full(real: bool, found: str, difference: float, against: str) -> str:
    """Two likenesses, the second of them less, beside what shuffled layers give."""
    if real:
        return f"Yes: {found}, {significant(difference)} less; {against}."
    apart = f"a difference of {significant(difference)}"
    return f"Not distinguishable from chance: {found}, {apart}; {against}."


def _shuffles(n: int, draws: int, seed: int) -> np.ndarray:
    """Random orders of the layers, one a row."""
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)


def _asked(
    question: Question,
    effect: float,
    null: Float[np.ndarray, " draw"],
    words: Words,
    plain: Plain,
) -> Asked:
    """A question of the order of layers, whose larger effects speak for "yes"."""
    p_value = float(monte_carlo_p(effect, null))
    return Asked(question, effect, null, p_value, words, plain, "shuffled orders of the layers")
