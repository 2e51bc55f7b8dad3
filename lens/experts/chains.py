"""Experts followed through depth for as long as their matches beat chance.

Axes: link (layer l to l + 1), expert (E), draw.

Every expert has a best match in the next layer, however weak (`lens.routers.matching`). Here
a link counts only if unrelated layers, matched the same way, would rarely give it, so a chain
begins and stops where links stop to count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.layers.draws import DRAWS, SEED
from lens.layers.pair_null import MANY_EXPERTS
from lens.routers.gram import RouterGram
from lens.routers.matching import assign, match_layers
from lens.routers.random_rotations import layer_corners, unrelated_cross
from lens.stats.draws import check_draws
from lens.stats.p_values import benjamini_hochberg, pooled_p

LEVEL = 0.05
# Matched cosines drawn for each link, over all experts of a layer.
ENOUGH = 8000


@dataclass(frozen=True)
class Chain:
    """One expert followed through consecutive layers.

    Attributes:
        first: row of the layer where it is born.
        experts: its index in that layer and in each that follows.
        scores: cosine of each of its links, one less than the experts.
    """

    first: int
    experts: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def last(self) -> int:
        """Row of the layer where it ends."""
        return self.first + len(self.experts) - 1

    def __len__(self) -> int:
        return len(self.experts)

    def expert_at(self, layer: int) -> int | None:
        """The expert that stands for the chain in a layer, None where it does not live."""
        place = layer - self.first
        return self.experts[place] if 0 <= place < len(self.experts) else None


@dataclass(frozen=True, eq=False)
class SignificantChains:
    """All matches between adjacent layers, and the chains of those that beat chance.

    Attributes:
        partner: the expert of layer l + 1 that each expert of layer l is matched with.
        score: cosine of the match.
        p: share of matched cosines of unrelated layers at least as large.
        q: the same, adjusted for all links (Benjamini–Hochberg).
        chains: every expert of every layer is in exactly one; longest first, then
            by the sum of its scores. Those of length 1 have no match that beats chance.
        level: largest q that counts as beating chance.
        null_mean, null_high: mean and 95 % quantile of the null, over all links.
        draws: of each link's null.
        seed: of the random numbers.
    """

    partner: Int[np.ndarray, "link expert"]
    score: Float[np.ndarray, "link expert"]
    p: Float[np.ndarray, "link expert"]
    q: Float[np.ndarray, "link expert"]
    chains: tuple[Chain, ...]
    level: float
    null_mean: float
    null_high: float
    draws: int
    seed: int

    @property
    def n_beyond(self) -> int:
        """Number of links that beat chance."""
        return int(np.count_nonzero(self.q <= self.level))

    def chain_of(self, layer: int, expert: int) -> Chain:
        """The chain that an expert belongs to."""
        return next(chain for chain in self.chains if chain.expert_at(layer) == expert)


def significant_chains(
    gram: RouterGram, *, draws: int = DRAWS, seed: int = SEED, level: float = LEVEL
) -> SignificantChains:
    """Chains of experts whose every link beats chance.

    Adjacent layers are matched one to one. The null of a link turns both layers at
    random and repeats the matching; its E matched cosines are pooled, since labels
    mean nothing. A chain is born where no link that beats chance leads in, and ends
    where none leads on. Unchanged, up to the labels, by relabelling any layer.

    In the canonical view the mean of a layer's columns has been taken off, so an
    expert with a very long column lends a little of its direction, reversed, to all
    others of its layer: where it goes on, weak links of the others can beat chance too.

    Reading it: in noise all chains have length 1, but for about one link in twenty
    at level 0.05 of those called significant.

    Args:
        gram: inner products, canonical.
        draws: of each link's null; fewer with more than 8 experts, whose draws say
            more: about 8,000 matched cosines a link are enough.
        seed: of the draws.
        level: false discovery rate at which a link counts.
    """
    n_layers, n_experts = gram.n_layers, gram.n_experts
    draws = max(19, min(check_draws(draws), -(-ENOUGH // n_experts)))
    shape = (n_layers - 1, n_experts)
    partner = np.empty(shape, np.int64)
    score, p = np.empty(shape), np.empty(shape)
    rng = np.random.default_rng(seed)
    many = n_experts > MANY_EXPERTS  # whose corners are long to draw, and serve all links
    turns = layer_corners(gram, draws, rng)
    pool = []
    for link in range(n_layers - 1):
        partner[link], score[link] = match_layers(gram, link, link + 1)
        if link and not many:
            turns = layer_corners(gram, draws, rng)
        pool.append(matched_by_chance(gram, link, link + 1, turns))
        p[link] = pooled_p(score[link], pool[-1])
    q = benjamini_hochberg(p)
    drawn = np.concatenate(pool) if pool else np.array([np.nan])
    return SignificantChains(
        partner=partner,
        score=score,
        p=p,
        q=q,
        chains=_chains(partner, score, q <= level, n_layers, n_experts),
        level=level,
        null_mean=float(drawn.mean()),
        null_high=float(np.quantile(drawn, 0.95)),
        draws=draws,
        seed=seed,
    )


def matched_by_chance(
    gram: RouterGram, a: int, b: int, turns: Float[np.ndarray, "draw rank rank"]
) -> Float[np.ndarray, " draw"]:
    """Matched cosines of two layers turned at random, matched anew in every draw.

    The E cosines of a draw are pooled, since labels mean nothing. `turns` are corners
    from `lens.routers.random_rotations.layer_corners`.
    """
    cross = unrelated_cross(gram, a, b, turns)
    cross /= gram.norms[a][:, None] * gram.norms[b]
    return np.concatenate([assign(cosines)[1] for cosines in cross])


def _chains(
    partner: np.ndarray, score: np.ndarray, real: np.ndarray, n_layers: int, n_experts: int
) -> tuple[Chain, ...]:
    found = []
    entered = np.zeros((n_layers, n_experts), bool)  # a link that counts leads here
    for link in range(n_layers - 1):
        entered[link + 1, partner[link][real[link]]] = True
    for layer, expert in np.argwhere(~entered):
        experts, scores = [int(expert)], []
        link = int(layer)
        while link < n_layers - 1 and real[link, experts[-1]]:
            scores.append(float(score[link, experts[-1]]))
            experts.append(int(partner[link, experts[-1]]))
            link += 1
        found.append(Chain(int(layer), tuple(experts), tuple(scores)))
    return tuple(sorted(found, key=lambda c: (-len(c), -sum(c.scores), c.first, c.experts[0])))
