"""Where two texts go to the same experts, token by token.

Axes: layer (L), token (T, of the first text), pair (P, aligned tokens), choice (K), draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.prompt_pairs.alignment import align
from lens.recipe.steps import remembered
from lens.stats.draws import affordable_draws, check_draws
from lens.stats.permutation_tests import DRAWS, SEED, AgainstChance, against_chance
from lens.traces.protocols import RoutedText
from lens.traces.routing import overlap

FEWEST = 4  # pairs that can be shuffled to some purpose


@dataclass(frozen=True, eq=False)
class Agreement:
    """The experts that aligned tokens of two texts have in common.

    Attributes:
        shared: share of each token's experts that its counterpart has too; not a number where
            there is none.
        partner: place of the counterpart in the second text, -1 for none.
        common_start: tokens before the first change of the text. A causal model does the same
            with them in both, so they are left out of the test.
        compared: pairs in the test.
        even: what even, independent choices share on average, K / E.
        test: mean of `shared` over the pairs by layer, beside pairs put together at random;
            None where fewer than four are left.
    """

    shared: Float[np.ndarray, "layer token"]
    partner: Int[np.ndarray, " token"]
    common_start: int
    compared: int
    even: float
    test: AgainstChance | None


@remembered
def agreement(
    first: RoutedText, second: RoutedText, *, draws: int = DRAWS, seed: int = SEED
) -> Agreement:
    """Experts that the tokens of one text share with those at the same position in another.

    Tokens are aligned with the fewest changes (`prompt_pairs.alignment`); a token and the one that
    stands in its place are compared even where they differ. A cell is |A ∩ B| / K: 1 the
    same experts, 1/2 one of two, 0 none. The null pairs the compared tokens of the two texts
    at random, all layers together, which keeps both texts' loads: what exceeds it is due to
    tokens that stand at the same place. p-values are of the upper tail; they take the pairs
    as independent, which neighbours are not.

    Raises:
        LensError: models of other shapes, or texts too long to align.
    """
    shapes = [trace.router_logits.shape for trace in (first, second)]
    if shapes[0][::2] != shapes[1][::2]:
        raise LensError(
            f"Two texts: {shapes[0][0]} layers of {shapes[0][2]} experts beside {shapes[1][0]} of "
            f"{shapes[1][2]}; expected texts of one model. Run both on the same model."
        )
    n_layers, n_tokens, n_experts = shapes[0]
    found = align(first.tokens, second.tokens)
    both = (found.first >= 0) & (found.second >= 0)
    here, there = found.first[both], found.second[both]
    partner = np.full(n_tokens, -1)
    partner[here] = there
    shared = np.full((n_layers, n_tokens), np.nan)
    shared[:, here] = overlap(first.experts[:, here], second.experts[:, there])
    after_start = here >= found.common_start
    here, there = here[after_start], there[after_start]
    return Agreement(
        shared=shared,
        partner=partner,
        common_start=found.common_start,
        compared=len(here),
        even=first.experts.shape[2] / n_experts,
        test=_test(first.experts[:, here], second.experts[:, there], draws, seed),
    )


def _test(one: np.ndarray, other: np.ndarray, draws: int, seed: int) -> AgainstChance | None:
    n_layers, n_pairs, top_k = one.shape
    if n_pairs < FEWEST:
        return None
    draws = affordable_draws(n_layers * n_pairs * top_k * top_k, check_draws(draws))
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [overlap(one, other[:, rng.permutation(n_pairs)]).mean(axis=1) for _ in range(draws)]
    )
    return against_chance(
        overlap(one, other).mean(axis=1),
        drawn,
        seed=seed,
        method=f"the same tokens paired at random, {draws:,} times",
        tail="upper",
    )
