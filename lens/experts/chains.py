"""Experts followed through depth for as long as their matches beat mixed experts.

Axes: link (layer l to l + 1), expert (E).

Every expert has a best match in the next layer, however weak (`lens.routers.matching`). Here
a link counts only if experts mixed within the same two layers, matched the same way, would
rarely give it (`lens.experts.same_expert`), so a chain begins and stops where links stop to
count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lens.experts.same_expert import MatchedLinks, matched_links, unrelated_matches
from lens.layers.draws import DRAWS, SEED
from lens.routers.gram import RouterGram

LEVEL = 0.05


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
    """All matches between adjacent layers, and the chains of those that beat mixed experts.

    Attributes:
        links: the matches, each beside mixed experts.
        chains: every expert of every layer is in exactly one; longest first, then
            by the sum of its scores. Those of length 1 have no match that counts.
        level: largest q of a match that counts.
        unrelated_mean: mean matched cosine of layers in unrelated directions, the absolute
            zero; not a number where there is one layer.
    """

    links: MatchedLinks | None
    chains: tuple[Chain, ...]
    level: float
    unrelated_mean: float

    @property
    def n_links(self) -> int:
        """Number of matches between adjacent layers."""
        return 0 if self.links is None else self.links.q.size

    @property
    def n_beyond(self) -> int:
        """Number of matches that beat mixed experts."""
        return 0 if self.links is None else int(np.count_nonzero(self.links.q <= self.level))

    @property
    def n_steps(self) -> int:
        """Number of steps between layers whose mean match beats that of mixed experts."""
        return 0 if self.links is None else int(np.count_nonzero(self.links.step_q <= self.level))

    def chain_of(self, layer: int, expert: int) -> Chain:
        """The chain that an expert belongs to."""
        return next(chain for chain in self.chains if chain.expert_at(layer) == expert)


def significant_chains(
    gram: RouterGram,
    *,
    links: MatchedLinks | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
    level: float = LEVEL,
) -> SignificantChains:
    """Chains of experts whose every link beats mixed experts.

    A chain is born where no link that counts leads in, and ends where none leads on.
    Unchanged, up to the labels, by relabelling any layer.

    Reading it: in noise of any covariance all chains have length 1, but for one set in
    twenty at level 0.05.

    Args:
        gram: inner products.
        links: of the same set, where they were drawn already.
        draws: of each link's null, see `matched_links`.
        seed: of the draws.
        level: false discovery rate at which a link counts.
    """
    shape = (gram.n_layers - 1, gram.n_experts)
    if gram.n_layers < 2:
        none = np.empty(shape)
        chains = _chains(none.astype(int), none, none > 0, 1, gram.n_experts)
        return SignificantChains(None, chains, level, float("nan"))
    found = matched_links(gram, draws=draws, seed=seed) if links is None else links
    return SignificantChains(
        links=found,
        chains=_chains(found.partner, found.score, found.q <= level, *gram.own.shape[:2]),
        level=level,
        unrelated_mean=float(unrelated_matches(gram, seed=seed).mean()),
    )


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
