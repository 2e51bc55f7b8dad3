"""Intervals of a measured load, and evenness of the use of experts beside even chance.

Axes: layer (L), token (T), expert (E), choice (K), draw.

Neighbouring tokens of a text are alike, so T tokens are worth T / τ independent ones, with τ the
correlation time of the choices, see `lens.stats.neighbour_correlation`. Everything here takes
that many. In texts of 200 tokens without a preference even use is then called uneven, at 5 %,
in 5 of 100 (independent tokens), 9 (0.8 of a neighbour's logits) and 17 (a topic kept for 50
tokens); counted as independent in 6, 94 and 100. A text that drifts all along, or has one or two
topics, is not told from one with preferences (61 to 86). One text says nothing of others; several
do, see `lens.many_prompts.trace_folder`.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.recipe.steps import remembered
from lens.stats.draws import check_draws
from lens.stats.neighbour_correlation import correlation_time
from lens.stats.permutation_tests import DRAWS, SEED, AgainstChance, against_chance
from lens.traces.protocols import RoutedTokens
from lens.traces.router_geometry import members
from lens.traces.routing import effective_experts, load

HELD_SETS = 5000
# Random choices that are drawn at once, and in all.
AT_ONCE = 2**22
IN_ALL = 2e8
# Correlation times are taken in steps of a factor of 2^(1/4), so that few nulls are drawn.
STEPS = 4


def choice_times(
    trace: RoutedTokens, *, tokens: slice = slice(None)
) -> Float[np.ndarray, " layer"]:
    """Tokens of a text that say as much of a layer's loads as one independent token.

    The correlation time of which experts the tokens choose, see `correlation_time`. Reading
    it: 1 where neighbours choose as if they were strangers, some 10 where a topic of 50 tokens
    makes up a tenth of the choices.
    """
    n_experts = trace.router_logits.shape[2]
    return np.array(
        [
            correlation_time(members(layer, n_experts).T.astype(np.float32))
            for layer in trace.experts[:, tokens]
        ]
    )


@remembered
def share_interval(
    trace: RoutedTokens,
    *,
    level: float = 0.95,
    comparisons: int | None = None,
    tokens: slice = slice(None),
    times: Float[np.ndarray, " layer"] | None = None,
) -> tuple[Float[np.ndarray, "layer expert"], Float[np.ndarray, "layer expert"]]:
    """Interval of each expert's load: the loads that a sample of this size leaves possible.

    A token chooses an expert or does not, so of n independent tokens Binomial(n, q) do; the
    interval of q is Clopper and Pearson's, exact, and load = q / K. Neighbours are alike, so
    n is the number of tokens over their correlation time.
    All experts of a layer together are one multinomial-like sample: each gets a share
    1 / E of the error (Bonferroni), so that a layer's intervals hold together at `level`.

    Reading it: even use, 1 / E, outside an interval is not what tokens so much alike would
    give by chance.

    Args:
        trace: the tokens.
        level: with which all intervals of a layer hold.
        comparisons: intervals that are to hold together; by default the experts of a layer,
            1 for each by itself.
        tokens: the part of the text.
        times: tokens that count as one, by layer; by default `choice_times`.

    Returns:
        Lowest and highest load.
    """
    from scipy.special import betaincinv

    share = load(trace, tokens=tokens)
    n_experts, top_k = share.shape[1], trace.experts.shape[2]
    comparisons = n_experts if comparisons is None else comparisons
    if not (0 < level < 1 and comparisons >= 1):
        raise LensError(
            f"Interval of the load: found level {level:g} and {comparisons} comparisons; expected "
            "a level between 0 and 1 and at least one comparison."
        )
    times = choice_times(trace, tokens=tokens) if times is None else times
    n = trace.experts[:, tokens].shape[1] / times[:, None]  # [L, 1]
    count = share * n * top_k
    tail = (1 - level) / 2 / comparisons
    low = np.where(count > 0, betaincinv(np.maximum(count, 1), n - count + 1, tail), 0)
    high = np.where(count < n, betaincinv(count + 1, np.maximum(n - count, 1), 1 - tail), 1)
    return low / top_k, high / top_k


@remembered
def even_use(
    trace: RoutedTokens,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    tokens: slice = slice(None),
    times: Float[np.ndarray, " layer"] | None = None,
) -> AgainstChance:
    """Effective number of experts beside that of tokens which choose evenly at random.

    exp(H) of a short text lies below E by chance alone; the null draws, for as many independent
    tokens as the text is worth, K different experts each, all choices equally likely. How much
    alike neighbours are is kept so, and what they prefer is lost.

    Reading it: below the band, the text uses the experts unevenly (p is one-sided). Above
    it would be more even than chance, as a trained balance may be.

    Args:
        trace: the tokens.
        draws, seed: of the null.
        tokens: the part of the text.
        times: tokens that count as one, by layer; by default `choice_times`.
    """
    experts = trace.experts[:, tokens]
    n_experts = trace.router_logits.shape[2]
    value = effective_experts(trace, tokens=tokens)
    _, n_tokens, top_k = experts.shape
    times = choice_times(trace, tokens=tokens) if times is None else times
    worth = n_tokens / 2 ** (np.ceil(np.log2(times) * STEPS - 1e-9) / STEPS)
    worth = np.maximum(np.rint(worth), 1).astype(int)
    null = {
        n: _evenness(even_counts(n, top_k, n_experts, check_draws(draws), seed), n * top_k)
        for n in sorted({int(n) for n in worth})
    }
    least = min(len(drawn) for drawn in null.values())
    drawn = np.stack([null[int(n)][:least] for n in worth], axis=1)
    some = f"{worth.min():,}" + (f" to {worth.max():,}" if len(null) > 1 else "")
    method = (
        f"{some} independent tokens, which {n_tokens:,} so much alike are worth, choose {top_k} of "
        f"{n_experts} evenly, {least:,} times"
    )
    return against_chance(
        value,
        drawn,
        seed=seed,
        method=method,
        tail="lower",
    )


def _evenness(counts: Float[np.ndarray, "draw expert"], total: int) -> Float[np.ndarray, " draw"]:
    shares = counts / total
    logs = np.log(np.where(shares > 0, shares, 1))
    return np.exp(-(shares * logs).sum(axis=1))


def even_counts(
    n_tokens: int, top_k: int, n_experts: int, draws: int, seed: int
) -> Float[np.ndarray, "draw expert"]:
    """Tokens that choose each expert when all choices of `top_k` experts are equally likely.

    Where there are at most 5,000 choices, from their multinomial distribution; else token
    by token, and then fewer draws (at least 199) of long texts.
    """
    rng = np.random.default_rng(seed)
    if math.comb(n_experts, top_k) <= HELD_SETS:
        sets = np.array(list(combinations(range(n_experts), top_k)))
        member = np.zeros((len(sets), n_experts))
        np.put_along_axis(member, sets, 1, axis=1)
        return rng.multinomial(n_tokens, np.full(len(sets), 1 / len(sets)), size=draws) @ member
    draws = int(max(min(draws, IN_ALL / (n_tokens * top_k * top_k)), min(draws, 199)))
    counts = np.zeros((draws, n_experts))
    for draw in range(draws):
        for start in range(0, n_tokens, AT_ONCE // top_k):
            n = min(AT_ONCE // top_k, n_tokens - start)
            chosen = random_choices(rng, n, top_k, n_experts)
            counts[draw] += np.bincount(chosen.ravel(), minlength=n_experts)
    return counts


def random_choices(
    rng: np.random.Generator, n_tokens: int, top_k: int, n_experts: int
) -> np.ndarray:
    """`top_k` different experts for each token, every set equally likely.

    Source: R. Floyd, in J. Bentley, "A sample of brilliance", CACM 30 (1987).
    """
    chosen = np.empty((n_tokens, top_k), dtype=np.int64)
    for place, last in enumerate(range(n_experts - top_k, n_experts)):
        drawn = rng.integers(0, last + 1, n_tokens)
        taken = (chosen[:, :place] == drawn[:, None]).any(axis=1)
        chosen[:, place] = np.where(taken, last, drawn)
    return chosen
