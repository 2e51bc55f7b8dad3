"""Experts of the tokens that a model makes, beside those of the tokens it was given.

Axes: layer (L), token (T), expert (E), turn (R, a rotation of the text on its circle).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.recipe.steps import remembered
from lens.stats.p_values import benjamini_hochberg, monte_carlo_p
from lens.stats.permutation_tests import SEED, AgainstChance, against_chance
from lens.traces.border_jump import BorderJump, border_jump
from lens.traces.protocols import RoutedText
from lens.traces.router_geometry import members

FEWEST_IN_PART = 4  # tokens
FEWEST_IN_ALL = 40  # tokens, so that a p-value of 1/40 can be reached
MOST_TURNS = 1999


@dataclass(frozen=True, eq=False)
class PartLoads:
    """Load of every expert in the prompt and in what was generated after it.

    Attributes:
        prompt, generated: shares of the part's (token, choice) assignments.
        test: half the sum over experts of |generated − prompt|, by layer, with its null:
            other than the rest of the text, drift included.
        overall_p: of the mean of that over layers.
        p: two-sided, of each expert's difference.
        q: over all layers and experts, after Benjamini and Hochberg.
        n_prompt, n_generated: tokens.
        jump: change of the loads at the border itself, beside all other borders; None where
            the text is too short to tell.
        no_jump: why there is none, for people; empty where there is one.
    """

    prompt: Float[np.ndarray, "layer expert"]
    generated: Float[np.ndarray, "layer expert"]
    test: AgainstChance
    overall_p: float
    p: Float[np.ndarray, "layer expert"]
    q: Float[np.ndarray, "layer expert"]
    n_prompt: int
    n_generated: int
    jump: BorderJump | None
    no_jump: str

    @property
    def difference(self) -> Float[np.ndarray, "layer expert"]:
        """Load in the generated tokens less that in the prompt."""
        return self.generated - self.prompt


@remembered
def part_loads(trace: RoutedText, *, seed: int = SEED) -> PartLoads:
    """Loads of prompt and generated tokens, as a whole and at the border between them.

    By layer, the total variation distance ½ Σ_e |load_generated − load_prompt|: the share of
    assignments that would have to move. For the null the text is laid on a circle and its
    two borders are turned through all places (1,999 drawn ones of a longer text): parts of
    the same lengths, elsewhere. Neighbours stay neighbours, so tokens that are alike because
    they stand together do not count as evidence, as they would if tokens were shuffled.

    Reading it: 0 the same loads, 1 none in common; a short part is away from 0 by chance
    alone, so compare with the null's mean. The smallest p-value is one over the tokens. The
    null takes the text for stationary. Texts drift, and generated tokens always stand later:
    a difference is one of place and topic as much as of who wrote it. Of 52 ordinary texts
    cut in two at random, a fifth of the layers differ at p ≤ 0.05.

    That generation routes otherwise is said by `jump` alone: loads just before and just after
    the border, against all other borders of the text, see `border_jump`. A drift does not
    make one; nor does a change that grows slowly from the border on.

    Raises:
        LensError: nothing was generated, or too few tokens for any test.
    """
    n_layers, n_tokens, n_experts = trace.router_logits.shape
    cut = min(trace.prompt_length, n_tokens)
    made = n_tokens - cut
    if not made:
        raise LensError("All tokens were given: there is nothing generated to compare them with.")
    if min(cut, made) < FEWEST_IN_PART or n_tokens < FEWEST_IN_ALL:
        raise LensError(
            f"{cut} given and {made} generated tokens; expected at least {FEWEST_IN_PART} of each "
            f"and {FEWEST_IN_ALL} in all, or no difference could be told from chance. Generate "
            "more tokens, or start from a longer text."
        )
    chosen = members(trace.experts, n_experts).astype(np.int32)  # [L, T, E]
    total = chosen.sum(axis=1)
    running = np.concatenate([chosen, chosen], axis=1).cumsum(axis=1)
    running = np.concatenate([np.zeros_like(running[:, :1]), running], axis=1)
    turns = np.arange(1, n_tokens)
    if len(turns) > MOST_TURNS:
        turns = np.sort(np.random.default_rng(seed).choice(turns, MOST_TURNS, replace=False))
    starts = (cut + np.concatenate([[0], turns])) % n_tokens
    own, *others = (_gap(running[:, s + made] - running[:, s], total) for s in starts)
    gaps = np.stack(others)  # [R, L, E]
    distance = np.abs(own).sum(axis=1) / 2
    drawn = np.abs(gaps).sum(axis=2) / 2
    both = np.minimum(monte_carlo_p(own, gaps), monte_carlo_p(-own, -gaps))
    p = np.where(total > 0, np.minimum(2 * both, 1), np.nan)
    whole = f"all {len(turns):,} turns" if len(turns) == n_tokens - 1 else f"{len(turns):,} turns"
    inside = running[:, cut + made] - running[:, cut]
    jump, no_jump = _jump(trace, cut)
    return PartLoads(
        prompt=_shares(total - inside),
        generated=_shares(inside),
        test=against_chance(
            distance,
            drawn,
            seed=seed,
            method=f"parts of the same lengths elsewhere in the text, {whole} of their borders",
        ),
        overall_p=float(monte_carlo_p(distance.mean(), drawn.mean(axis=1))),
        p=p,
        q=benjamini_hochberg(p),
        n_prompt=cut,
        n_generated=made,
        jump=jump,
        no_jump=no_jump,
    )


def _jump(trace: RoutedText, cut: int) -> tuple[BorderJump | None, str]:
    try:
        return border_jump(trace, cut), ""
    except LensError as error:
        return None, str(error)


def _gap(inside: np.ndarray, total: np.ndarray) -> Float[np.ndarray, "layer expert"]:
    return _shares(inside) - _shares(total - inside)


def _shares(counts: np.ndarray) -> Float[np.ndarray, "layer expert"]:
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
