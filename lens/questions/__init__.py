"""The four questions that the first page answers, each with its null.

Every answer is one sentence with an effect, what chance gives, and a p-value. The four
are asked together: an answer is a finding when its p-value, adjusted by Holm's method
for there being four, is below 1 %, so that routers without any structure give no finding
at all in 99 of 100 cases. "Not distinguishable from chance" is an answer.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.experts.same_expert import MatchedLinks, matched_links
from lens.experts.unequal_experts import EqualExperts
from lens.layers.similarity import layer_similarity
from lens.questions.answer import DRAWS, LEVEL, SEED, Answer, Asked, Question
from lens.questions.of_experts import ask_breadth, ask_same_expert, asks_breadth
from lens.questions.of_layers import ask_adjacent, ask_depth
from lens.routers.gram import RouterGram
from lens.routers.router_set import RouterSet
from lens.stats.p_values import holm

__all__ = [
    "DRAWS",
    "LEVEL",
    "SEED",
    "Answer",
    "Asked",
    "Question",
    "ask_adjacent",
    "ask_breadth",
    "ask_depth",
    "ask_same_expert",
    "asks_breadth",
    "four_questions",
]


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
    return [one.together(float(p), draws, seed) for one, p in zip(asked, adjusted, strict=True)]
