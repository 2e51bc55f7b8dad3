"""The four questions that the first page answers, each with its null.

Every answer is one sentence with an effect, what chance gives, and a p-value. The four
are asked together: an answer is a finding when its p-value, adjusted by Holm's method
for there being four, is below 1 %, so that routers without any structure give no finding
at all in 99 of 100 cases. "Not distinguishable from chance" is an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.clustering.trees import depth_terciles
from lens.experts import chains
from lens.experts.same_expert import MatchedLinks, matched_links, unrelated_matches
from lens.experts.unequal_experts import EqualExperts, broadest_expert, equal_experts
from lens.layers.similarity import layer_similarity
from lens.routers.gram import RouterGram
from lens.routers.router_set import RouterSet
from lens.stats.p_values import holm, monte_carlo_p
from lens.words import p_value_text, significant

DRAWS = 999
SEED = 0
LEVEL = 0.01
MIN_ADJACENT = 4
MIN_DEPTH = 6


@dataclass(frozen=True)
class Question:
    """A question that can be asked of a router set.

    Attributes:
        id: its name in code and links.
        text: as people ask it.
        effect_name: the number that answers it.
    """

    id: str
    text: str
    effect_name: str


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
SAME_EXPERT = Question(
    "same_expert",
    "Does the same expert specialise in similar things across layers?",
    "mean matched cosine of adjacent layers' experts",
)
BREADTH = Question(
    "breadth",
    "Are some experts broader than others?",
    "largest selection probability of any expert, less that of balance",
)


@dataclass(frozen=True)
class Answer:
    """One question, answered from the data.

    Attributes:
        id: of the question: "adjacent", "depth", "same_expert" or "breadth".
        question: as asked.
        sentence: the answer in words, with effect, null and p-value.
        effect: the number that the answer rests on; not a number when there are
            too few layers to ask.
        effect_name: what it is.
        null_mean, null_low, null_high: mean, 2.5 % and 97.5 % quantile by chance.
        p_value: probability that chance gives so large an effect.
        p_adjusted: the same for the four questions together (Holm).
        draws, seed: of the null.
        beats: what a finding is more than, or would be.
        counted: whether the p-value is a share of the draws, which has a least value; else it
            comes from a tail fitted to them.
    """

    id: str
    question: str
    sentence: str
    effect: float
    effect_name: str
    null_mean: float
    null_low: float
    null_high: float
    p_value: float
    p_adjusted: float
    draws: int
    seed: int
    beats: str
    counted: bool

    @property
    def distinguishable(self) -> bool:
        """True for a finding: p below 1 % with Holm's correction for four questions."""
        return self.p_adjusted < LEVEL

    @property
    def p_adjusted_text(self) -> str:
        """The adjusted p-value in words; a bound where no draw reached the effect."""
        bound = self.counted and self.p_value * (1 + self.draws) <= 1.0001
        return p_value_text(self.p_adjusted, bound=bound)


Words = Callable[[bool, str], str]
"""The sentence, given whether it is a finding and its p-values in words."""


@dataclass(frozen=True)
class Asked:
    """A question with its numbers, before the four are judged together."""

    question: Question
    effect: float
    null: Float[np.ndarray, " draw"]
    p_value: float
    words: Words
    beats: str
    counted: bool = True


def four_questions(
    routers: RouterSet,
    gram: RouterGram,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    similarity: Float[np.ndarray, "layer layer"] | None = None,
    links: MatchedLinks | None = None,
    equal: EqualExperts | None = None,
) -> list[Answer]:
    """The answers for one router set.

    Args:
        routers: the set.
        gram: its canonical inner products; the nulls are of canonical routers.
        draws: of each null. With fewer than 399 no p-value of questions 1 and 2 is small
            enough for a finding among four.
        seed: of the draws.
        similarity: CKA of the layers, where it is known already.
        links: matches of adjacent layers beside mixed experts, where they were drawn already.
        equal: equal experts, where they were drawn already.
    """
    if similarity is None:
        similarity = layer_similarity(gram, "cka")
    if links is None and gram.n_layers > 1:
        links = matched_links(gram, draws=draws, seed=seed)
    asked = [
        ask_adjacent(similarity, draws, seed),
        ask_depth(similarity, draws, seed),
        ask_same_expert(gram, links, seed),
        ask_breadth(routers, gram, equal, seed),
    ]
    adjusted = holm(np.array([one.p_value for one in asked]))
    return [_answer(one, float(p), draws, seed) for one, p in zip(asked, adjusted, strict=True)]


def ask_adjacent(
    similarity: Float[np.ndarray, "layer layer"], draws: int = DRAWS, seed: int = SEED
) -> Asked:
    """Asks if neighbours are more alike than other pairs, against shuffled layer orders."""
    n = len(similarity)
    if n < MIN_ADJACENT:
        return _too_few(ADJACENT, n, MIN_ADJACENT)
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
        against = f"shuffled layer orders give a difference of {_band(null)}; {p}"
        if real:
            return f"Yes: {found}, {significant(effect)} less; {against}."
        return (
            f"Not distinguishable from chance: {found}, a difference of {significant(effect)}; "
            f"{against}."
        )

    return _asked(ADJACENT, effect, null, words)


def ask_depth(
    similarity: Float[np.ndarray, "layer layer"], draws: int = DRAWS, seed: int = SEED
) -> Asked:
    """Asks if the first and the last third of the layers form groups, against shuffled depths."""
    n = len(similarity)
    if n < MIN_DEPTH:
        return _too_few(DEPTH, n, MIN_DEPTH)
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
        against = f"shuffled depths give a difference of {_band(null)}; {p}"
        if real:
            return f"Yes: {found}, {significant(inside_mean - between_mean)} less; {against}."
        return (
            f"Not distinguishable from chance: {found}, a difference of "
            f"{significant(inside_mean - between_mean)}; {against}."
        )

    return _asked(DEPTH, inside_mean - between_mean, null, words)


def ask_same_expert(gram: RouterGram, links: MatchedLinks | None, seed: int = SEED) -> Asked:
    """Asks if matched experts of adjacent layers read alike, against experts mixed in their layers.

    Mixed experts read the same directions as the real ones, so what all layers share is in the
    null. Unrelated directions stand beside it as the absolute zero.

    Args:
        gram: canonical inner products.
        links: of the same set; None where there is one layer.
        seed: of the unrelated directions.
    """
    if links is None:
        return _too_few(SAME_EXPERT, gram.n_layers, 2)
    effect, null = float(links.score.mean()), links.drawn
    unrelated = unrelated_matches(gram, seed=seed).mean(axis=1)
    alone = int(np.count_nonzero(links.q <= chains.LEVEL))
    beats = "the directions that all layers share"

    def words(real: bool, p: str) -> str:
        found = (
            f"experts matched between adjacent layers have a mean cosine of {significant(effect)}"
        )
        against = (
            f"experts mixed within their layers give {_band(null)}, unrelated directions "
            f"{_range(unrelated)}; {p}"
        )
        if not real:
            return f"Not distinguishable from chance: {found}; {against}."
        single = f"and {alone:,} single matches can be told"
        which = single if alone else "though no single match can be told"
        return f"Yes, more than {beats} explain: {found}, {which}; {against}."

    return Asked(SAME_EXPERT, effect, null, links.mean_p, words, beats, counted=False)


def asks_breadth(routers: RouterSet) -> bool:
    """Whether weights can make an expert broad: not where all, or half, of them are selected."""
    half = 2 * routers.top_k == routers.n_experts and routers.logit_biases is None
    return routers.top_k < routers.n_experts and not half


def ask_breadth(
    routers: RouterSet, gram: RouterGram, equal: EqualExperts | None = None, seed: int = SEED
) -> Asked:
    """Asks if the broadest of all experts is broader than that of as many equal experts.

    Equal experts are drawn in two ways, see `lens.experts.unequal_experts`; the larger of the
    two p-values counts.
    """
    n_experts, top_k = gram.n_experts, routers.top_k
    if not asks_breadth(routers):
        sentence = (
            f"Nothing to compare: every token is sent to all {n_experts} experts, so all are "
            "equally broad."
        )
        if top_k < n_experts:
            sentence = (
                f"Can't be told from the weights: with top {top_k} of {n_experts} every expert is "
                "selected half of the time under an isotropic prior, whatever its weights."
            )
        return _unasked(BREADTH, sentence)
    drawn = equal_experts(routers, gram, seed=seed) if equal is None else equal
    found = broadest_expert(gram, top_k, drawn, routers.logit_biases)
    even = top_k / n_experts
    null = found.drawn - even

    def words(real: bool, p: str) -> str:
        name_of = routers.label(found.layer, found.expert)
        said = (
            f"under an isotropic prior {name_of} is selected with probability "
            f"{significant(found.value)}, {significant(found.value - even)} above balance "
            f"({significant(even)})"
        )
        against = (
            f"the broadest of as many equal experts ({found.null}) is above it by {_band(null)}; "
            f"{p}"
        )
        if real:
            return f"Yes: {said}; {against}."
        return f"Not distinguishable from chance: {said}; {against}."

    beats = f"equal experts ({found.null})"
    return Asked(BREADTH, found.value - even, null, found.p, words, beats, counted=False)


def _shuffles(n: int, draws: int, seed: int) -> np.ndarray:
    """Random orders of the layers, one a row."""
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)


def _asked(
    question: Question, effect: float, null: Float[np.ndarray, " draw"], words: Words
) -> Asked:
    """A question of the order of layers, whose larger effects speak for "yes"."""
    p_value = float(monte_carlo_p(effect, null))
    return Asked(question, effect, null, p_value, words, "shuffled orders of the layers")


def _too_few(question: Question, found: int, needed: int) -> Asked:
    there = "there is 1" if found == 1 else f"there are {found}"
    sentence = f"Can't be asked here: it needs at least {needed} layers, and {there}."
    return _unasked(question, sentence)


def _unasked(question: Question, sentence: str) -> Asked:
    nan = float("nan")
    return Asked(question, nan, np.full(1, nan), nan, lambda _real, _p: sentence, "")


def _answer(asked: Asked, p_adjusted: float, draws: int, seed: int) -> Answer:
    low, high = np.quantile(asked.null, [0.025, 0.975])
    made = len(asked.null) if asked.counted else None
    least = made is not None and asked.p_value <= 1 / (1 + made)
    of_four = p_value_text(p_adjusted, bound=least)
    p_text = f"p {p_value_text(asked.p_value, made)} (for four questions {of_four})"
    return Answer(
        id=asked.question.id,
        question=asked.question.text,
        sentence=asked.words(p_adjusted < LEVEL, p_text),
        effect=asked.effect,
        effect_name=asked.question.effect_name,
        null_mean=float(asked.null.mean()),
        null_low=float(low),
        null_high=float(high),
        p_value=asked.p_value,
        p_adjusted=p_adjusted,
        draws=draws,
        seed=seed,
        beats=asked.beats,
        counted=asked.counted,
    )


def _band(null: Float[np.ndarray, " draw"]) -> str:
    return f"{_range(null)} in 95 % of {len(null)} draws"


def _range(null: Float[np.ndarray, " draw"]) -> str:
    low, high = np.quantile(null, [0.025, 0.975])
    return f"{significant(float(low))} to {significant(float(high))}"
