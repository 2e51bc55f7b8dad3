"""Questions 3 and 4: do experts go on from layer to layer, and is one broader than others?"""

from __future__ import annotations

import numpy as np

from lens.experts import chains
from lens.experts.same_expert import MatchedLinks, unrelated_matches
from lens.experts.unequal_experts import EqualExperts, broadest_expert, equal_experts
from lens.questions.answer import (
    SEED,
    Asked,
    Question,
    band,
    middle,
    too_few,
    unasked,
)
from lens.routers.gram import RouterGram
from lens.routers.router_set import RouterSet
from lens.words import ratio_in_words, significant

SAME_BREADTH = "Whatever the weights, all experts are equally broad here."

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
        return too_few(SAME_EXPERT, gram.n_layers, 2)
    effect, null = float(links.score.mean()), links.drawn
    unrelated = unrelated_matches(gram, seed=seed).mean(axis=1)
    alone = int(np.count_nonzero(links.q <= chains.LEVEL))
    beats = "the directions that all layers share"

    def words(real: bool, p: str) -> str:
        found = (
            f"experts matched between adjacent layers have a mean cosine of {significant(effect)}"
        )
        against = (
            f"experts mixed within their layers give {band(null)}, unrelated directions "
            f"{middle(unrelated)}; {p}"
        )
        if not real:
            return f"Not distinguishable from chance: {found}; {against}."
        single = f"and {alone:,} single matches can be told"
        which = single if alone else "though no single match can be told"
        return f"Yes, more than {beats} explain: {found}, {which}; {against}."

    def plain(real: bool) -> str:
        if not real:
            return "Experts of neighbouring layers are no more alike than mixed experts are."
        if not alone:
            together = "Taken all together, experts carry on into the next layer"
            return f"{together}; no single one stands out."
        return f"Experts carry on into the next layer: {alone:,} single ones can be followed."

    return Asked(SAME_EXPERT, effect, null, links.mean_p, words, plain, beats, counted=False)


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
        return unasked(BREADTH, sentence, SAME_BREADTH)
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
            f"the broadest of as many equal experts ({found.null}) is above it by {band(null)}; {p}"
        )
        if real:
            return f"Yes: {said}; {against}."
        return f"Not distinguishable from chance: {said}; {against}."

    def plain(real: bool) -> str:
        if not real:
            return "No expert is broader than equal experts would be."
        often = ratio_in_words(found.value, even).replace("much", "often")
        return f"{routers.label(found.layer, found.expert)} is chosen {often} equal experts are."

    beats = f"equal experts ({found.null})"
    return Asked(BREADTH, found.value - even, null, found.p, words, plain, beats, counted=False)
