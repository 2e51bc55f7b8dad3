"""Experts of adjacent layers that are the same, beyond the space that their layers share.

Axes: link (layer l to l + 1), expert (E), draw.

Adjacent layers are matched one to one, by the cosines of their canonical columns. The null
mixes the experts within each layer (`lens.routers.expert_mixing`) and matches anew: what
layers have in common because they read the same directions is in it, which expert reads
which is not. Both ways of mixing are drawn, and a p-value is the larger of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.layers.pair_null import adjacent_null
from lens.routers.expert_mixing import (
    DRAWS,
    SEED,
    ExpertMixings,
    expert_mixings,
)
from lens.routers.gram import RouterGram
from lens.routers.matching import assign_each, match_layers
from lens.stats.exponential_tail import pooled_tail_p
from lens.stats.p_values import benjamini_hochberg

# Matched cosines drawn for each link and way of mixing, over all experts of a layer.
ENOUGH = 2400
FEWEST = 19
# Draws of unrelated directions, whose mean and range are shown beside.
UNRELATED = 99


@dataclass(frozen=True, eq=False)
class MatchedLinks:
    """All matches between adjacent layers, beside those of layers whose experts are mixed.

    Attributes:
        partner: the expert of layer l + 1 that each expert of layer l is matched with.
        score: cosine of the match.
        p: share of matched cosines of mixed experts at least as large.
        q: the same, adjusted for all links (Benjamini–Hochberg).
        step_p: the same of the mean over the experts of a step, which tells far more than
            one of them.
        step_q: adjusted for all steps.
        mean_p: share of draws whose mean over all links and experts is at least that of
            the set: one p-value for the question whether experts go on at all.
        drawn: that mean in each draw, by the way of mixing that gave `mean_p`.
        null_mean, null_high: mean and 95 % quantile of the matched cosines drawn for a link,
            mean over links.
        even_lengths: whether `mean_p` is that of columns mixed at equal length.
        draws: of each link, in each way of mixing.
        seed: of the random numbers.
    """

    partner: Int[np.ndarray, "link expert"]
    score: Float[np.ndarray, "link expert"]
    p: Float[np.ndarray, "link expert"]
    q: Float[np.ndarray, "link expert"]
    step_p: Float[np.ndarray, " link"]
    step_q: Float[np.ndarray, " link"]
    mean_p: float
    drawn: Float[np.ndarray, " draw"]
    null_mean: float
    null_high: float
    even_lengths: bool
    draws: int
    seed: int


def matched_links(gram: RouterGram, *, draws: int = DRAWS, seed: int = SEED) -> MatchedLinks:
    """The matches of adjacent layers against layers whose experts are mixed.

    Unchanged, up to the labels, by relabelling any layer. In the canonical view an expert
    with a very long column lends a little of its direction, reversed, to all others of its
    layer; mixed experts share that direction out among themselves, so that it counts as
    something the layers share.

    Reading it: q of at most 0.05 marks matches that are closer than the directions that
    both layers read make any two of their experts. In noise of any covariance fewer than
    one set in twenty has such a match.

    Args:
        gram: inner products, canonical, of at least two layers.
        draws: of each link and way of mixing, but no more than give 2,400 matched cosines:
            300 with 8 experts.
        seed: of the draws.

    Raises:
        LensError: there is one layer only.
    """
    n_links, n_experts = gram.n_layers - 1, gram.n_experts
    if n_links < 1:
        raise LensError(
            "matched links: there is one layer; expected at least 2. Use a set with more layers."
        )
    draws = link_draws(n_experts, draws)
    mixings = expert_mixings(gram.n_layers, n_experts, draws, seed)
    shape = (n_links, n_experts)
    partner, score = np.empty(shape, np.int64), np.empty(shape)
    for link in range(n_links):
        partner[link], score[link] = match_layers(gram, link, link + 1)
    ways = [_against(gram, score, mixings, even) for even in (False, True)]
    way = int(np.argmax([one.mean_p for one in ways]))
    p, step_p = (np.maximum(*parts) for parts in zip(*[(w.p, w.step_p) for w in ways], strict=True))
    return MatchedLinks(
        partner=partner,
        score=score,
        p=p,
        q=benjamini_hochberg(p),
        step_p=step_p,
        step_q=benjamini_hochberg(step_p),
        mean_p=ways[way].mean_p,
        drawn=ways[way].drawn,
        null_mean=float(ways[way].drawn.mean()),
        null_high=ways[way].high,
        even_lengths=bool(way),
        draws=draws,
        seed=seed,
    )


def link_draws(n_experts: int, asked: int = DRAWS) -> int:
    """Draws of each link and way of mixing: as asked for, but 2,400 matched cosines at most."""
    return max(FEWEST, min(asked, -(-ENOUGH // n_experts)))


def unrelated_matches(
    gram: RouterGram, *, draws: int = UNRELATED, seed: int = SEED
) -> Float[np.ndarray, "draw link"]:
    """Mean matched cosine of each link with its layers turned at random: the absolute zero.

    Args:
        gram: inner products.
        draws: of each link; fewer of many experts, whose matchings take long.
        seed: of the rotations.
    """
    draws = max(FEWEST, min(draws, ENOUGH // gram.n_experts))
    return adjacent_null(gram, "matched_cosine", draws=draws, seed=seed)


@dataclass(frozen=True, eq=False)
class _Against:
    """The p-values by one way of mixing, and what was drawn."""

    p: Float[np.ndarray, "link expert"]
    step_p: Float[np.ndarray, " link"]
    mean_p: float
    drawn: Float[np.ndarray, " draw"]
    high: float


def _against(
    gram: RouterGram,
    score: Float[np.ndarray, "link expert"],
    mixings: ExpertMixings,
    even_lengths: bool,
) -> _Against:
    p, step_p, steps, highs = np.empty(score.shape), np.empty(len(score)), [], []
    after = mixings.unit(gram, 0, even_lengths=even_lengths)
    for link, scores in enumerate(score):
        before, after = after, mixings.unit(gram, link + 1, even_lengths=even_lengths)
        drawn = assign_each(before.transpose(0, 2, 1) @ gram.pair(link, link + 1) @ after)
        steps.append(drawn.mean(axis=1))
        p[link] = pooled_tail_p(scores, drawn.ravel())
        step_p[link] = pooled_tail_p(scores.mean(), steps[-1])
        highs.append(np.quantile(drawn, 0.95))
    means = np.mean(steps, axis=0)
    mean_p = float(pooled_tail_p(score.mean(), means))
    return _Against(p, step_p, mean_p, means, float(np.mean(highs)))
