"""Tests of differences between two runs: in a quantity, in loads, in chosen experts.

Axes: layer (L), compared pair (P), block of neighbouring pairs (B), expert (E), draw.

The compared tokens are no sample of independent ones, for neighbours share their context. So
each null treats blocks of neighbouring pairs as one observation, see `token_blocks`. A block
holds more tokens the more alike neighbours are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.prompt_pairs.paired_routing import Paired, difference
from lens.prompt_pairs.token_blocks import (
    TokenBlocks,
    block_orders,
    block_sums,
    flipped_signs,
    token_blocks,
)
from lens.stats.draws import affordable_draws, check_draws
from lens.stats.p_values import benjamini_hochberg, monte_carlo_p
from lens.stats.permutation_tests import DRAWS, SEED, AgainstChance, against_chance
from lens.traces.routing import overlap

# Numbers of a block of draws that are held at once.
HELD = 2**22


# --- signs of blocks --------------------------------------------------------------


def _flip_method(blocks: TokenBlocks, draws: int, exact: bool) -> str:
    times = f"all {draws + 1:,} ways" if exact else f"{draws:,} times"
    return f"signs of {blocks.text} flipped, {times}"


def _asked(runs: Paired) -> None:
    if len(runs.pairs) == 0:
        raise LensError(
            "Two runs: there is no token to compare; expected the same tokens in both texts, "
            f"after the {runs.common_start} of their common start. Compare texts that share "
            "words after their first difference."
        )


@dataclass(frozen=True, eq=False)
class DifferenceTest:
    """Test of the difference of a quantity between two runs, by layer and over all.

    Attributes:
        test: mean difference by layer, first less second, with its null; q is not a number in
            layers without any difference and in changed ones.
        p: over all other layers together.
        n_pairs: how many tokens were compared.
        blocks: of neighbours that share a sign.
        smallest_p: the smallest p-value that so few blocks can give.
    """

    test: AgainstChance
    p: float
    n_pairs: int
    blocks: TokenBlocks
    smallest_p: float


def difference_test(
    runs: Paired,
    what: str,
    *,
    block: int | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> DifferenceTest:
    """Mean difference of a quantity by layer, against flipped signs.

    If it is all the same which run a token is taken from, its difference has either sign alike.
    So each draw flips the signs of whole blocks of neighbouring tokens, in all layers alike.
    By layer the statistic is the mean difference, two-sided; over all layers it is
    Σ_l (Σ_b s_b D_lb)² / Σ_b D_lb², D the sums of blocks, where s are the signs.

    Kept are the sizes of all differences and their order within a block; whether one run is
    above the other is not. Reading it: blocks longer than the reach of a context give honest
    p-values, shorter ones too small ones, see `token_blocks`. Where `blocks.too_few`, nothing
    is told. A p-value speaks of such tokens in these two texts.

    Args:
        runs: what is compared.
        what: see `difference`.
        block: neighbouring pairs that share a sign; by default as many as their likeness asks
            for, the same for all layers: by the mean of their correlations.
        draws, seed: of the signs.

    Raises:
        LensError: nothing to compare, an unknown quantity, or a block or draws out of bounds.
    """
    _asked(runs)
    values = difference(runs, what)[:, runs.pairs]
    blocks = token_blocks(values[runs.tested] if runs.tested.any() else values, block)
    sums = block_sums(values, blocks.length)
    signs, exact = flipped_signs(blocks.count, draws, seed)
    counted = np.maximum(np.isfinite(values).sum(axis=1), 1)
    test = against_chance(
        sums.sum(axis=1) / counted,
        signs @ sums.T / counted,
        seed=seed,
        method=_flip_method(blocks, len(signs), exact),
        tail="both",
    )
    differs = (sums != 0).any(axis=1) & runs.tested
    q = np.full(len(differs), np.nan)
    q[differs] = benjamini_hochberg(test.p[differs])
    spread = np.where(differs, (sums**2).sum(axis=1), 1)
    own = (sums.sum(axis=1) ** 2 / spread)[differs].sum()
    drawn = ((signs @ sums.T) ** 2 / spread)[:, differs].sum(axis=1)
    return DifferenceTest(
        test=replace(test, q=q),
        p=float(monte_carlo_p(own, drawn)) if differs.any() else float("nan"),
        n_pairs=len(runs.pairs),
        blocks=blocks,
        smallest_p=max(2 / 2**blocks.count, 1 / (1 + len(signs))),
    )


@dataclass(frozen=True, eq=False)
class LoadDifference:
    """Load of every expert in the compared tokens of either run.

    Attributes:
        first, second: shares of the assignments.
        difference: first less second.
        p: two-sided; not a number for experts that no token changes to or from, and in changed
            layers.
        q: over all layers and experts, after Benjamini and Hochberg.
        blocks: of neighbours that share a sign.
        draws, seed: of the signs.
        smallest_p: the smallest p-value that so few blocks can give.
        method: what was drawn, for people.
    """

    first: Float[np.ndarray, "layer expert"]
    second: Float[np.ndarray, "layer expert"]
    difference: Float[np.ndarray, "layer expert"]
    p: Float[np.ndarray, "layer expert"]
    q: Float[np.ndarray, "layer expert"]
    blocks: TokenBlocks
    draws: int
    seed: int
    smallest_p: float
    method: str


def load_difference(
    runs: Paired, *, block: int | None = None, draws: int = DRAWS, seed: int = SEED
) -> LoadDifference:
    """Load of each expert in the first run less that in the second, for the same tokens.

    The null is that of `difference_test`: a token's two sets of experts are exchanged between
    the runs, for whole blocks of neighbouring tokens at once.

    Raises:
        LensError: nothing to compare, or a block or draws out of bounds.
    """
    _asked(runs)
    members = [
        (run.experts[:, at, :, None] == np.arange(runs.n_experts)).any(axis=2)
        for run, at in zip((runs.first, runs.second), runs.at, strict=True)
    ]  # [L, P, E]
    totals = [np.maximum(member.sum(axis=(1, 2), keepdims=True), 1) for member in members]
    shares = [member / total for member, total in zip(members, totals, strict=True)]
    gap = np.moveaxis(shares[0] - shares[1], 1, 2).reshape(-1, len(runs.pairs))  # [L·E, P]
    tested = np.repeat(runs.tested, runs.n_experts)
    blocks = token_blocks(gap[tested] if tested.any() else gap, block)
    sums = block_sums(gap, blocks.length)
    signs, exact = flipped_signs(blocks.count, draws, seed)
    own = sums.sum(axis=1)
    reached = np.zeros(len(own))
    slack = 1e-12
    for part in _parts(len(signs), len(own)):
        reached += (np.abs(signs[part] @ sums.T) >= np.abs(own) - slack).sum(axis=0)
    p = (1 + reached) / (1 + len(signs))
    shape = (runs.n_layers, runs.n_experts)
    asked = (np.abs(sums) > slack).any(axis=1) & tested
    p[~asked] = np.nan
    return LoadDifference(
        first=shares[0].sum(axis=1),
        second=shares[1].sum(axis=1),
        difference=own.reshape(shape),
        p=p.reshape(shape),
        q=benjamini_hochberg(p).reshape(shape),
        blocks=blocks,
        draws=len(signs),
        seed=seed,
        smallest_p=max(2 / 2**blocks.count, 1 / (1 + len(signs))),
        method=_flip_method(blocks, len(signs), exact),
    )


def _parts(draws: int, columns: int) -> list[slice]:
    step = max(1, HELD // max(columns, 1))
    return [slice(start, start + step) for start in range(0, draws, step)]


# --- agreement --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AgreementTest:
    """Experts that the same tokens keep, beside unrelated tokens of the two runs.

    Attributes:
        test: mean of `kept_experts` by layer, with its null.
        p: of the mean over all layers.
        value, mean: over all layers, found and by chance.
        same: share of the compared tokens with the same set of experts, by layer.
        changed: layers and tokens with another set, over all.
        blocks: of neighbours that stay together.
    """

    test: AgainstChance
    p: float
    value: float
    mean: float
    same: Float[np.ndarray, " layer"]
    changed: int
    blocks: TokenBlocks


def agreement_test(
    runs: Paired, *, block: int | None = None, draws: int = DRAWS, seed: int = SEED
) -> AgreementTest:
    """Share of experts that the same tokens keep, against pairs put together anew.

    Each draw puts the second run's compared tokens into another order: the row is turned
    round by a random number of places, cut into blocks of neighbours, and the blocks are put
    into random order, in all layers alike. So loads, and the likeness of neighbours, stay as
    they are. p is one-sided: more agreement than that. Blocks are as long as the likeness of
    neighbours' agreement asks for, see `token_blocks`.

    Reading it: 1 is the same experts for every token. By chance two runs with even loads agree
    in K / E of the experts, more where loads are uneven. Agreement above chance says that a
    token's identity matters to its routing; agreement below 1, that its context does.

    Raises:
        LensError: nothing to compare, or a block or draws out of bounds.
    """
    _asked(runs)
    n = len(runs.pairs)
    at, other = runs.at
    one, two = runs.first.experts[:, at], runs.second.experts[:, other]
    draws = affordable_draws(float(one.size) * two.shape[2], check_draws(draws))
    kept = overlap(one, two)  # [L, P]
    blocks = token_blocks(kept.mean(axis=0, keepdims=True), block)
    orders = block_orders(n, blocks.length, draws, seed)
    drawn = np.empty((draws, runs.n_layers))
    for layer in range(runs.n_layers):
        table = _overlap_table(one[layer], two[layer], runs.n_experts)
        drawn[:, layer] = table[np.arange(n), orders].mean(axis=1)
    own = kept.mean(axis=1)
    return AgreementTest(
        test=against_chance(
            own,
            drawn,
            seed=seed,
            method=f"{blocks.text} of one run put into random order, {draws:,} times",
        ),
        p=float(monte_carlo_p(own.mean(), drawn.mean(axis=1))),
        value=float(own.mean()),
        mean=float(drawn.mean()),
        same=_all_kept(kept).mean(axis=1),
        changed=int(np.count_nonzero(~_all_kept(kept))),
        blocks=blocks,
    )


def _all_kept(kept: np.ndarray) -> Bool[np.ndarray, "layer pair"]:
    return kept > 1 - 1e-9


def _overlap_table(
    one: Int[np.ndarray, "pair choice"], two: Int[np.ndarray, "pair choice"], n_experts: int
) -> Float[np.ndarray, "pair pair"]:
    """`overlap` of each token of one run with each of the other's."""
    members = []
    for experts in (one, two):
        member = np.zeros((len(experts), n_experts + 1), dtype=np.float32)
        np.put_along_axis(member, np.where(experts < 0, n_experts, experts), 1, axis=1)
        members.append(member[:, :n_experts])
    sizes = [member.sum(axis=1) for member in members]
    return members[0] @ members[1].T / np.maximum(np.maximum.outer(*sizes), 1)
