"""Which experts are chosen together, beside what their loads alone explain.

Axes: layer (L), token (T), expert (E), choice (K), set (different choices of K experts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.recipe.steps import remembered
from lens.stats.neighbour_correlation import correlation_time
from lens.stats.p_values import SMALLEST, benjamini_hochberg
from lens.traces.protocols import RoutedTokens
from lens.traces.router_geometry import members
from lens.words import fixed

# Different choices up to which their joint distribution is gone through whole.
HELD_SETS = 5000
# Pairs of a layer, the most expected ones, whose correlation along the text is measured.
TIMED_PAIRS = 256
NEVER = 1e-12  # share of tokens up to which an expert is never chosen
MOST_STEPS = 2000


@dataclass(frozen=True, eq=False)
class CoSelection:
    """Pairs of experts that the same tokens chose.

    Attributes:
        counts: tokens that chose both; on the diagonal, tokens that chose the one.
        expected: tokens that would, given the loads alone, see `coselection`.
        lift: counts / expected; NaN on the diagonal and where nothing is expected.
        n_tokens: tokens counted.
    """

    counts: Int[np.ndarray, "layer expert expert"]
    expected: Float[np.ndarray, "layer expert expert"]
    lift: Float[np.ndarray, "layer expert expert"]
    n_tokens: int


@dataclass(frozen=True, eq=False)
class PairTest:
    """p-values of pairs, see `pair_test`.

    Attributes:
        z: (counts − expected) / sd.
        p: two-sided; NaN on the diagonal and where a count cannot vary.
        q: over all pairs of all layers, after Benjamini and Hochberg.
        sd: of a count, when the loads alone decide, of tokens as much alike.
        method: for people.
    """

    z: Float[np.ndarray, "layer expert expert"]
    p: Float[np.ndarray, "layer expert expert"]
    q: Float[np.ndarray, "layer expert expert"]
    sd: Float[np.ndarray, "layer expert expert"]
    method: str


@remembered
def coselection(trace: RoutedTokens, *, tokens: slice = slice(None)) -> CoSelection:
    """Which experts of a layer are chosen together more often than their loads explain.

    The plain product n_a · n_b / T is no chance level here: a token must choose
    K different experts, so even use of 8 by pairs gives 1/28 of the tokens to a
    pair, not 1/16. Expected counts come from the least committal choice of K
    different experts that has these loads, P(S) ∝ Π_{e∈S} w_e, its weights
    fitted so that every expert is chosen as often as it was:

        expected_ab = T · w_a w_b e_{K−2}(w without a, b) / e_K(w),

    e_j the elementary symmetric polynomial of degree j.

    Reading it: 1 is what the loads explain, 2 twice as often together. Counts
    of a few tokens vary by their square root; `pair_test` has p-values.

    Raises:
        LensError: no tokens in the part asked for.
    """
    experts = trace.experts[:, tokens]
    return coselection_of(pair_counts(experts, trace.router_logits.shape[2]), experts.shape[1:])


def pair_counts(
    experts: Int[np.ndarray, "layer token choice"], n_experts: int
) -> Int[np.ndarray, "layer expert expert"]:
    """Tokens that chose both experts of a pair; on the diagonal, those that chose the one."""
    n_layers, n_tokens, _ = experts.shape
    counts = np.empty((n_layers, n_experts, n_experts), dtype=np.int64)
    for layer in range(n_layers):
        chosen = np.zeros((n_tokens, n_experts))
        np.put_along_axis(chosen, experts[layer].astype(np.int64), 1, axis=1)
        counts[layer] = np.rint(chosen.T @ chosen)
    return counts


def coselection_of(
    counts: Int[np.ndarray, "layer expert expert"], tokens_and_choices: tuple[int, ...]
) -> CoSelection:
    """`coselection` from counts of pairs: of several texts, for instance, added up.

    Args:
        counts: as `pair_counts` gives them.
        tokens_and_choices: how many tokens were counted, and how many choices each had.
    """
    n_tokens, top_k = tokens_and_choices
    if n_tokens < 1:
        raise LensError(
            "Routing statistics: 0 tokens in this part of the trace; expected at least 1. Choose "
            "a longer text or another part."
        )
    n_experts = counts.shape[1]
    loads = counts.diagonal(axis1=1, axis2=2) / n_tokens
    expected = n_tokens * _joint_inclusion(loads, top_k)
    pairs = expected.copy()
    pairs[:, np.arange(n_experts), np.arange(n_experts)] = 0
    possible = pairs > 1e-9
    lift = np.divide(counts, pairs, out=np.full_like(pairs, np.nan), where=possible)
    return CoSelection(counts, expected, lift, n_tokens)


@remembered
def pair_times(trace: RoutedTokens) -> Float[np.ndarray, " layer"]:
    """Tokens of a text that say as much of a layer's pairs as one independent token.

    The correlation time of whether tokens choose both of a pair, less what the experts by
    themselves explain (its regression on who chooses them), all pairs together.
    """
    n_experts = trace.router_logits.shape[2]
    a, b = np.triu_indices(n_experts, 1)
    times = np.ones(len(trace.experts))
    for layer, experts in enumerate(trace.experts):
        chosen = members(experts, n_experts).astype(np.float64)
        load = chosen.mean(axis=0)
        kept = np.argsort(-load[a] * load[b], kind="stable")[:TIMED_PAIRS]
        both = chosen[:, a[kept]] * chosen[:, b[kept]]
        single, both = chosen - load, both - both.mean(axis=0)
        both -= single @ np.linalg.lstsq(single, both, rcond=1e-10)[0]
        times[layer] = correlation_time(both.T)
    return times


@remembered
def pair_test(found: CoSelection, times: Float[np.ndarray, " layer"] | None = None) -> PairTest:
    """p-values of the counts of pairs when tokens choose by the loads alone.

    Under P(S) ∝ Π w_e a count of T independent tokens varies; since the weights were
    fitted to the loads, only what the loads leave free does. Its spread and skewness are
    those of a pair's indicator less its regression on the indicators of the experts, times
    √T and 1/√T. The p-value is read off a Pearson type III distribution with them: exact in
    its first three moments, and none is reported below 1e-12. Beyond 5,000 different
    choices of K experts the count is taken as binomial, which is a little cautious.

    Neighbouring tokens are alike, so T tokens vary as T / τ independent ones do. Kept are the
    loads and, with the times given, how alike neighbours are; lost is who is chosen together.
    A topic makes pairs of the experts that it prefers, and that counts: of texts of 200 tokens
    with topics kept for 50, some pair has q ≤ 0.05 in 28 of 100 (independent tokens 2, 0.8 of a
    neighbour's logits 13, a drift 9; without the times 33, 4, 64, 10).

    Args:
        found: the counts.
        times: tokens that count as one, by layer, see `pair_times`; by default 1.
    """
    counts, n_tokens = found.counts, found.n_tokens
    n_layers, n_experts, _ = counts.shape
    top_k = round(float(counts[0].diagonal().sum() / n_tokens))
    sd, skewness = np.zeros(counts.shape), np.zeros(counts.shape)
    whole = math.comb(n_experts, top_k) <= HELD_SETS
    for layer in range(n_layers):
        share = found.expected[layer] / n_tokens
        if whole:
            sd[layer], skewness[layer] = _residual_moments(share.diagonal(), top_k)
        else:
            variance = np.clip(share * (1 - share), 0, None)
            sd[layer] = np.sqrt(variance)
            third = np.divide(
                1 - 2 * share, sd[layer], out=np.zeros_like(share), where=sd[layer] > 0
            )
            skewness[layer] = third
    time = np.ones(n_layers) if times is None else np.asarray(times, np.float64)
    sd = sd * np.sqrt(n_tokens * time)[:, None, None]
    skewness = skewness * np.sqrt(time / n_tokens)[:, None, None]
    asked = ~np.eye(n_experts, dtype=bool) & (sd > 1e-6) & (found.expected > 1e-9)
    z = np.divide(counts - found.expected, sd, out=np.full(sd.shape, np.nan), where=asked)
    upper = np.triu(np.ones((n_experts, n_experts), dtype=bool), 1)
    p, q = np.full(z.shape, np.nan), np.full(z.shape, np.nan)
    p[:, upper] = _two_sided(z[:, upper], skewness[:, upper])
    q[:, upper] = benjamini_hochberg(p[:, upper])
    p, q = (np.where(np.isnan(one), one.transpose(0, 2, 1), one) for one in (p, q))
    method = "loads fitted, independent tokens"
    if times is not None:
        method = f"loads fitted, {fixed(time.mean(), 1)} tokens count as one (mean over layers)"
    return PairTest(z, p, q, sd, method if whole else f"{method}, binomial counts")


def _two_sided(z: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    from scipy.stats import pearson3

    with np.errstate(invalid="ignore"):
        above, below = pearson3.sf(z, skewness), pearson3.cdf(z, skewness)
    p = np.clip(2 * np.minimum(above, below), SMALLEST, 1)
    return np.where(np.isnan(z), np.nan, p)


def _residual_moments(share: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Spread and skewness, for one token, of each pair's indicator less what the loads fix."""
    n_experts = len(share)
    sets = np.array(list(combinations(range(n_experts), top_k)))
    member = np.zeros((len(sets), n_experts))
    np.put_along_axis(member, sets, 1, axis=1)
    chance = _set_chances(member, share, top_k)
    i, j = np.triu_indices(n_experts, 1)
    single, both = member - chance @ member, member[:, i] * member[:, j]
    both -= chance @ both
    weighted = single * chance[:, None]
    slope = np.linalg.lstsq(weighted.T @ single, weighted.T @ both, rcond=1e-10)[0]
    left = both - single @ slope
    variance = np.clip(chance @ left**2, 0, None)
    variance[variance < 1e-12] = 0
    third = chance @ left**3
    skew = np.divide(third, variance**1.5, out=np.zeros_like(third), where=variance > 0)
    sd, skewness = np.zeros((n_experts, n_experts)), np.zeros((n_experts, n_experts))
    sd[i, j] = sd[j, i] = np.sqrt(variance)
    skewness[i, j] = skewness[j, i] = skew
    return sd, skewness


def _set_chances(member: np.ndarray, share: np.ndarray, top_k: int) -> np.ndarray:
    """P(S) of the maximum-entropy choice with these shares; sets that cannot occur get 0."""
    always, never = share > 1 - NEVER, share < NEVER
    weights = _weights(share[None], top_k)[0][0]
    possible = (member[:, never].sum(axis=1) == 0) & (member[:, always].all(axis=1))
    rest = ~always & ~never
    logs = member[:, rest] @ np.log(weights[rest]) if rest.any() else np.zeros(len(member))
    chance = np.where(possible, np.exp(logs - logs[possible].max()), 0)
    return chance / chance.sum()


def _symmetric(weights: np.ndarray, degree: int) -> np.ndarray:
    """Elementary symmetric polynomials of degree 0 … `degree` of the first 0, 1, … weights.

    [..., E] -> [..., E + 1, degree + 1]; the last row is of all of them.
    """
    n = weights.shape[-1]
    poly = np.zeros((*weights.shape[:-1], n + 1, degree + 1))
    poly[..., 0] = 1
    for i in range(n):
        poly[..., i + 1, 1:] = poly[..., i, 1:] + poly[..., i, :-1] * weights[..., i, None]
    return poly


def _without_each(weights: np.ndarray, degree: int) -> np.ndarray:
    """Polynomials of degree 0 … `degree` of all weights but one, for each [..., E, degree + 1].

    Products of those of the weights before it and after it: no differences, so nothing is lost
    where one weight is much larger than the others.
    """
    before = _symmetric(weights, degree)[..., :-1, :]
    after = _symmetric(weights[..., ::-1], degree)[..., -2::-1, :]
    found = np.zeros(before.shape)
    for j in range(degree + 1):
        found[..., j] = (before[..., : j + 1] * after[..., j::-1]).sum(axis=-1)
    return found


def _joint_inclusion(
    share: Float[np.ndarray, "layer expert"], top_k: int
) -> Float[np.ndarray, "layer expert expert"]:
    """P(a and b chosen) of the maximum-entropy choice of `top_k` with P(a chosen) = share.

    Source: S. Chen, A. Dempster and J. Liu, "Weighted finite population sampling to
    maximize entropy", Biometrika 81 (1994): the weights and their fixed point.
    """
    joint = np.zeros((*share.shape, share.shape[-1]))
    weights, left = _weights(share, top_k)
    for own, p, w, k in zip(joint, share, weights, left.tolist(), strict=True):
        np.fill_diagonal(own, p)
        always = p > 1 - NEVER  # an expert chosen by every token is with every choice
        own[always], own[:, always] = p, p[:, None]
        rest = np.flatnonzero(w)
        if k < 2 or len(rest) <= k:
            continue
        w = w[rest]
        others = np.where(np.eye(len(w), dtype=bool), 0, w)  # a row for each, itself left out
        total = _symmetric(w, k)[-1, k]
        both = w * w[:, None] * _without_each(others, k - 2)[..., k - 2] / total
        np.fill_diagonal(both, p[rest])
        own[np.ix_(rest, rest)] = both
    return joint


def _weights(
    share: Float[np.ndarray, "layer expert"], top_k: int
) -> tuple[Float[np.ndarray, "layer expert"], Int[np.ndarray, " layer"]]:
    """Weights of the experts, 0 of those always or never chosen; choices left to the others."""
    always, never = share > 1 - NEVER, share < NEVER
    open_to = ~always & ~never
    p = np.where(open_to, share, 0.0)
    k = top_k - always.sum(axis=1)
    w = p / (1 - p)
    fitted = np.flatnonzero((open_to.sum(axis=1) > k) & (k >= 1))
    for _ in range(MOST_STEPS):
        if not fitted.size:
            break
        own, left = w[fitted], k[fitted]
        logs = np.log(own, out=np.zeros_like(own), where=own > 0)
        own /= np.exp(logs.sum(axis=1) / open_to[fitted].sum(axis=1))[:, None]
        rows = np.arange(len(fitted))
        less = _without_each(own, int(left.max()) - 1)[rows, :, left - 1]
        whole = _symmetric(own, int(left.max()))[rows, -1, left]
        found = own * less / whole[:, None]
        apart = np.abs(found - p[fitted]).max(axis=1) >= 1e-9
        step = np.divide(p[fitted], found, out=np.zeros_like(own), where=found > 0)
        w[fitted] = np.where(apart[:, None], own * step, own)
        fitted = fitted[apart]
    return w, k
