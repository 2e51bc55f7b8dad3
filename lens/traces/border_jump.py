"""Change of the experts' loads at one place of a text, beside the changes at all other places.

Axes: layer (L), token (T), expert (E), place (a border between two tokens).

Texts drift: what stands later is routed otherwise, whoever wrote it. So the tokens just
before a border and just after it are compared, windows of the same length, and the null is
the same comparison at every other border of the text. A drift, however strong, changes
loads everywhere; only a border that changes more than others does stands out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.stats.p_values import monte_carlo_p
from lens.stats.permutation_tests import SEED, AgainstChance, against_chance
from lens.traces.protocols import RoutedTokens
from lens.traces.router_geometry import members

WINDOW = 64
SHARE = 5  # a window is at most this part of the text
FEWEST = 8  # tokens in a window
# Borders of the text, so that a p-value of 0.05 can be reached several times over.
FEWEST_PLACES = 40


@dataclass(frozen=True, eq=False)
class BorderJump:
    """The change at a border.

    Attributes:
        test: half the sum over experts of |load after − load before|, by layer, with its
            null.
        overall_p: of its mean over layers.
        change: load after less load before, of each expert.
        window: tokens on either side.
        places: other borders that the null consists of.
    """

    test: AgainstChance
    overall_p: float
    change: Float[np.ndarray, "layer expert"]
    window: int
    places: int


def border_jump(trace: RoutedTokens, border: int, *, window: int = WINDOW) -> BorderJump:
    """Loads just before and just after a border, against all other borders of the text.

    The windows hold `window` tokens, but at most a fifth of the text and what there is on
    either side. Reading it: p ≤ 0.05 says that routing changes here more than at 95 of 100
    places of this text, that is, with a jump. A slow change that began here is not found.

    In texts that drift or keep a topic for a while, 1 to 6 in 100 have p ≤ 0.05 where
    nothing happens, against 15 to 45 for the parts before and after as a whole.

    Args:
        trace: the tokens of one text.
        border: how many tokens stand before it.
        window: tokens on either side, at most.

    Raises:
        LensError: too few tokens on either side, or in all.
    """
    n_layers, n_tokens, n_experts = trace.router_logits.shape
    window = min(window, n_tokens // SHARE, border, n_tokens - border)
    places = np.arange(window, n_tokens - window + 1)
    if window < FEWEST or len(places) <= FEWEST_PLACES:
        raise LensError(
            f"Border after token {border} of {n_tokens}: windows of {max(window, 0)} tokens leave "
            f"{max(len(places) - 1, 0)} other borders; expected windows of {FEWEST} or more and "
            f"{FEWEST_PLACES} borders. Use a longer text."
        )
    running = members(trace.experts, n_experts).astype(np.int32).cumsum(axis=1)
    running = np.concatenate([np.zeros_like(running[:, :1]), running], axis=1)  # [L, T + 1, E]
    before = _shares(running[:, places] - running[:, places - window])
    after = _shares(running[:, places + window] - running[:, places])
    change = after - before  # [L, place, E]
    distance = np.abs(change).sum(axis=2).T / 2  # [place, L]
    here = places == border
    test = against_chance(
        distance[here][0],
        distance[~here],
        seed=SEED,
        method=f"{len(places) - 1:,} other borders of the text, {window} tokens on either side",
    )
    means = distance.mean(axis=1)
    return BorderJump(
        test=test,
        overall_p=float(monte_carlo_p(means[here][0], means[~here])),
        change=change[:, here][:, 0],
        window=window,
        places=len(places) - 1,
    )


def _shares(counts: np.ndarray) -> Float[np.ndarray, "layer place expert"]:
    return counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)
