"""The four questions that the first page answers, each with its null.

Every answer is one sentence with an effect, what chance gives, and a p-value.
"Not distinguishable from chance" is an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from lens.clustering import depth_terciles
from lens.gram import RouterGram
from lens.null import centered, chance_samples, gaussian_grams
from lens.routers import RouterSet
from lens.selection import MANY_EXPERTS, selected_share
from lens.similarity import layer_similarity

DRAWS = 999
SEED = 0
LEVEL = 0.05
MIN_ADJACENT = 4
MIN_DEPTH = 6
# The spread of breadth and its null are read off the same points.
BATCHES = 2

ADJACENT = "Do adjacent layers have similar routing patterns?"
DEPTH = "Do early and late layers cluster separately?"
SAME_EXPERT = "Does the same expert specialise in similar things across layers?"
BREADTH = "Are some experts broader than others?"


@dataclass(frozen=True)
class Answer:
    """One question, answered from the data.

    Attributes:
      question: as asked.
      sentence: the answer in words, with effect, null and p-value.
      effect: the number that the answer rests on; not a number when there are
        too few layers to ask.
      effect_name: what it is.
      null_mean, null_low, null_high: mean, 2.5 % and 97.5 % quantile by chance.
      p_value: share of chance results at least as large, counting the data as one.
      page: where the numbers can be looked at.
      params: settings of that page that show them.
    """

    question: str
    sentence: str
    effect: float
    effect_name: str
    null_mean: float
    null_low: float
    null_high: float
    p_value: float
    page: str
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def distinguishable(self) -> bool:
        """Whether chance gives so large an effect in fewer than 1 case in 20."""
        return self.p_value < LEVEL


def four_questions(routers: RouterSet, gram: RouterGram) -> list[Answer]:
    """The answers for one router set.

    The four p-values are each for itself, not corrected for there being four.

    Args:
      routers: the set.
      gram: its canonical Gram matrix; the nulls are of canonical routers.
    """
    similarity = layer_similarity(gram, "cka")
    return [
        adjacent_answer(similarity),
        depth_answer(similarity),
        same_expert_answer(gram),
        breadth_answer(routers, gram),
    ]


def adjacent_answer(similarity: Float[np.ndarray, "layer layer"]) -> Answer:
    """Whether neighbours are more alike than other pairs, against shuffled layer orders."""
    name = "mean CKA of adjacent layers minus that of all other pairs"
    page, params = "/layers", {"metric": "cka"}
    n = len(similarity)
    if n < MIN_ADJACENT:
        return _too_few(ADJACENT, name, page, params, n, MIN_ADJACENT)
    n_pairs = n * (n - 1) // 2
    total = np.triu(similarity, 1).sum()

    def effects(orders: np.ndarray) -> np.ndarray:
        beside = similarity[orders[:, :-1], orders[:, 1:]].sum(axis=1)
        return beside / (n - 1) - (total - beside) / (n_pairs - n + 1)

    effect = float(effects(np.arange(n)[None])[0])
    null = effects(_shuffles(n))
    neighbours = float(np.diagonal(similarity, 1).mean())

    def words(real: bool, p: str) -> str:
        found = (
            f"adjacent layers have a mean CKA of {_number(neighbours)}, other pairs "
            f"{_number(neighbours - effect)}"
        )
        against = f"shuffled layer orders give a difference of {_band(null)}; {p}"
        if real:
            return f"Yes: {found}, {_number(effect)} less; {against}."
        return (
            f"Not distinguishable from chance: {found}, a difference of {_number(effect)}; "
            f"{against}."
        )

    return _answer(ADJACENT, name, effect, null, page, params, words)


def depth_answer(similarity: Float[np.ndarray, "layer layer"]) -> Answer:
    """Whether the first and the last third of the layers form groups, against shuffled depths."""
    name = "mean CKA within the early and the late third minus that between them"
    page, params = "/clustering", {"metric": "cka"}
    n = len(similarity)
    if n < MIN_DEPTH:
        return _too_few(DEPTH, name, page, params, n, MIN_DEPTH)
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

    within, between = (float(part[0]) for part in parts(np.arange(n)[None]))
    inside, across = parts(_shuffles(n))
    null = inside - across

    def words(real: bool, p: str) -> str:
        found = (
            f"mean CKA is {_number(within)} within the first and the last third of the layers and "
            f"{_number(between)} between them"
        )
        against = f"shuffled depths give a difference of {_band(null)}; {p}"
        if real:
            return f"Yes: {found}, {_number(within - between)} less; {against}."
        return (
            f"Not distinguishable from chance: {found}, a difference of "
            f"{_number(within - between)}; {against}."
        )

    return _answer(DEPTH, name, within - between, null, page, params, words)


def same_expert_answer(gram: RouterGram) -> Answer:
    """Whether the matched experts of adjacent layers read alike, against unrelated routers."""
    name = "mean matched cosine of adjacent layers' experts"
    page, params = "/experts", {"metric": "matched_cosine"}
    n = gram.n_layers
    if n < 2:
        return _too_few(SAME_EXPERT, name, page, params, n, 2)
    similarity = layer_similarity(gram, "matched_cosine")
    effect = float(np.diagonal(similarity, 1).mean())
    pairs = chance_samples("matched_cosine", gram.d_model, gram.n_experts, DRAWS + 1, SEED)
    null = _means_of(pairs, n - 1)
    others = similarity[np.triu_indices(n, 2)]

    def words(real: bool, p: str) -> str:
        found = f"experts matched between adjacent layers have a mean cosine of {_number(effect)}"
        if others.size:
            found += f" (other pairs of layers: {_number(float(others.mean()))})"
        against = f"unrelated routers, matched the same way, give {_band(null)}; {p}"
        if real:
            return f"Yes, to that extent: {found}; {against}."
        return f"Not distinguishable from chance: {found}; {against}."

    return _answer(SAME_EXPERT, name, effect, null, page, params, words)


def breadth_answer(routers: RouterSet, gram: RouterGram) -> Answer:
    """Whether experts differ in how often they'd be selected, against random routers."""
    name = "largest minus smallest selection probability in a layer, averaged over layers"
    page, params = "/experts", {"measure": "breadth"}
    n_experts, top_k = gram.n_experts, routers.top_k
    if top_k == n_experts:
        sentence = (
            f"Nothing to compare: every token is sent to all {n_experts} experts, so all are "
            "equally broad."
        )
        return _unasked(BREADTH, sentence, name, page, params)
    if 2 * top_k == n_experts and routers.biases is None:
        sentence = (
            f"Can't be told from the weights: with top {top_k} of {n_experts} every expert is "
            "selected half of the time under an isotropic prior, whatever its weights."
        )
        return _unasked(BREADTH, sentence, name, page, params)
    shares, _ = selected_share(gram.own, top_k, batches=BATCHES, biases=routers.biases)
    spread = np.ptp(shares, axis=1)
    effect = float(spread.mean())
    null = _means_of(_random_spreads(gram.d_model, n_experts, top_k), gram.n_layers)

    def words(real: bool, p: str) -> str:
        low, high = float(shares.min()), float(shares.max())
        found = (
            f"under an isotropic prior an expert is selected with probability {_number(low)} to "
            f"{_number(high)} (balance: {_number(top_k / n_experts)}), and within a layer these "
            f"differ by {_number(effect)} on average"
        )
        against = f"random routers give {_band(null)}; {p}"
        if real:
            return f"Yes: {found}; {against}."
        return f"Not distinguishable from chance: {found}; {against}."

    return _answer(BREADTH, name, effect, null, page, params, words)


@lru_cache(maxsize=8)
def _random_spreads(d_model: int, n_experts: int, top_k: int) -> Float[np.ndarray, " draw"]:
    """Spread of breadth in random routers of this size: weights of equal variance everywhere."""
    draws = 200 if n_experts <= MANY_EXPERTS else 64
    rng = np.random.default_rng(SEED)
    own = centered(gaussian_grams(rng, draws, d_model, n_experts))
    shares, _ = selected_share(own, top_k, batches=BATCHES)
    return np.ptp(shares, axis=1)


def _means_of(samples: Float[np.ndarray, " draw"], n: int) -> Float[np.ndarray, " draw"]:
    """Means of n values each, drawn from the samples anew for every mean.

    The samples' own mean is uncertain too; that is drawn along.
    """
    rng = np.random.default_rng(SEED + 1)
    means = rng.choice(samples, (DRAWS, n)).mean(axis=1)
    return means + rng.choice(samples, (DRAWS, len(samples))).mean(axis=1) - samples.mean()


def _shuffles(n: int) -> np.ndarray:
    """Random orders of the layers, one a row."""
    rng = np.random.default_rng(SEED)
    return rng.permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)


def _answer(
    question: str,
    name: str,
    effect: float,
    null: Float[np.ndarray, " draw"],
    page: str,
    params: dict[str, Any],
    words: Callable[[bool, str], str],
) -> Answer:
    """The answer to a question whose larger effects speak for "yes"."""
    reached = int(np.count_nonzero(null >= effect - 1e-12))
    p_value = (1 + reached) / (1 + len(null))
    p_text = f"p {'≤' if reached == 0 else '='} {p_value:.2g}"
    low, high = np.quantile(null, [0.025, 0.975])
    return Answer(
        question=question,
        sentence=words(p_value < LEVEL, p_text),
        effect=effect,
        effect_name=name,
        null_mean=float(null.mean()),
        null_low=float(low),
        null_high=float(high),
        p_value=p_value,
        page=page,
        params=params,
    )


def _too_few(
    question: str, name: str, page: str, params: dict[str, Any], found: int, needed: int
) -> Answer:
    there = "there is 1" if found == 1 else f"there are {found}"
    sentence = f"Can't be asked here: it needs at least {needed} layers, and {there}."
    return _unasked(question, sentence, name, page, params)


def _unasked(question: str, sentence: str, name: str, page: str, params: dict[str, Any]) -> Answer:
    nan = float("nan")
    return Answer(question, sentence, nan, name, nan, nan, nan, nan, page, params)


def _number(value: float) -> str:
    """Three significant digits, with a minus sign that is one."""
    text = f"{value:.3g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"
    return text.replace("-", "−")


def _band(null: Float[np.ndarray, " draw"]) -> str:
    low, high = np.quantile(null, [0.025, 0.975])
    return f"{_number(float(low))} to {_number(float(high))} in 95 % of {len(null)} draws"
