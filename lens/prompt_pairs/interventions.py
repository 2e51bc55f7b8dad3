"""Effects of an intervention on one expert, beside the same on the others of its layer.

Axes: layer (L), token (T), expert (E), choice (K), layers of a sweep (N), positions (P).

Banning any expert that a text uses changes something. Whether this expert matters is a
question about the difference from its neighbours, so everything here stands beside what the
same intervention does with the layer's other experts. With E experts the smallest p that a
rank among them can have is 1/E: one text and one layer rarely show more than an order.

Those others are mostly used by other tokens, and by fewer or more. The second control takes
another of its experts from each of the same tokens, so that use is alike by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.prompt_pairs.token_blocks import TokenBlocks, block_sums, flipped_signs, token_blocks
from lens.stats.draws import check_draws
from lens.stats.p_values import monte_carlo_p
from lens.stats.permutation_tests import SEED
from lens.traces.protocols import RoutedTokens
from lens.traces.routing import overlap as in_common

DRAWS = 1999


def overlap(base: RoutedTokens, changed: RoutedTokens) -> Float[np.ndarray, "layer token"]:
    """Share of a token's experts that two runs of it have in common.

    Reading it: 1 the same experts, 0 all others. Two random choices of K of E experts share
    K / E on average.

    Raises:
        LensError: the runs are of different shapes.
    """
    a, b = np.asarray(base.experts), np.asarray(changed.experts)
    if a.shape[:2] != b.shape[:2]:
        raise LensError(
            f"Two runs of {a.shape[:2]} and {b.shape[:2]} (layers, tokens) cannot be compared; "
            "expected runs of the same tokens."
        )
    return in_common(a, b)


def moved(base: RoutedTokens, changed: RoutedTokens) -> Float[np.ndarray, " layer"]:
    """Share of the tokens that go to another set of experts, in each layer."""
    return (overlap(base, changed) < 1).mean(axis=1)


def use(trace: RoutedTokens, layer: int, expert: int) -> float:
    """Share of the tokens that use an expert, 0 to 1; K / E when all are used alike."""
    return float((np.asarray(trace.experts)[layer] == expert).any(axis=-1).mean())


@dataclass(frozen=True, eq=False)
class AmongOthers:
    """One expert's effect beside the same intervention on the others of its layer.

    Attributes:
        value: of the expert.
        others: of the others.
        p: (1 + number of others at least as large) / (1 + number of others).
    """

    value: float
    others: Float[np.ndarray, " other"]
    p: float

    @property
    def rank(self) -> int:
        """1 when no other expert has a larger effect."""
        return 1 + int(np.count_nonzero(self.others >= self.value))


def among_others(value: float, others: Float[np.ndarray, " other"]) -> AmongOthers:
    """Where an effect stands among those of the layer's other experts.

    Raises:
        LensError: there are no others.
    """
    others = np.asarray(others, dtype=np.float64)
    if others.size == 0:
        raise LensError("An effect beside others needs at least one other expert of the layer.")
    p = (1 + np.count_nonzero(others >= value)) / (1 + others.size)
    return AmongOthers(float(value), others, float(p))


def weight(trace: RoutedTokens) -> Float[np.ndarray, "layer expert"]:
    """Mean share of each expert in the tokens' mixes, gate over the sum of the chosen gates.

    Reading it: sums to 1 in each layer, 1 / E when all are used alike. An expert that is many
    tokens' last choice has a large load and a small weight.
    """
    experts = np.asarray(trace.experts)
    gates = np.where(experts >= 0, np.asarray(trace.gates, np.float64), 0)
    whole = gates.sum(axis=-1, keepdims=True)
    share = gates / np.where(whole > 0, whole, 1)
    n_experts = np.asarray(trace.router_logits).shape[-1]
    found = np.zeros((experts.shape[0], n_experts))
    layer = np.broadcast_to(np.arange(len(experts))[:, None, None], experts.shape)
    np.add.at(found, (layer, np.maximum(experts, 0)), share)
    return found / max(experts.shape[1], 1)


# --- the same tokens -------------------------------------------------------------------


def other_choice(
    trace: RoutedTokens, layer: int, expert: int, *, seed: int = SEED
) -> Int[np.ndarray, " token"]:
    """Another expert of each token that uses `expert`, drawn where there are several; else -1."""
    chosen = np.asarray(trace.experts)[layer]
    uses = (chosen == expert).any(axis=-1, keepdims=True)
    open_to = uses & (chosen >= 0) & (chosen != expert)
    order = np.random.default_rng(seed).random(chosen.shape)
    slot = np.where(open_to, order, -1.0).argmax(axis=-1)[:, None]
    found = np.take_along_axis(chosen, slot, axis=-1)[:, 0]
    return np.where(open_to.any(axis=-1), found, -1)


def mix_share(
    trace: RoutedTokens, layer: int, experts: Int[np.ndarray, " token"]
) -> Float[np.ndarray, " token"]:
    """Share of one expert of each token in its mix, gate over the sum of the chosen gates.

    Reading it: 1 / K when the chosen experts weigh alike; not a number where the token does
    not use the expert.
    """
    chosen, gates = np.asarray(trace.experts)[layer], np.asarray(trace.gates)[layer]
    own = (chosen == np.asarray(experts)[:, None]) & (chosen >= 0)
    whole = np.where(chosen >= 0, gates, 0).sum(axis=-1)
    share = np.where(own, gates, 0).sum(axis=-1) / np.where(whole > 0, whole, np.nan)
    return np.where(own.any(axis=-1), share, np.nan)


@dataclass(frozen=True, eq=False)
class SameTokens:
    """The change without an expert beside that without another expert of the same tokens.

    Attributes:
        value: mean change a token without the expert.
        instead: the same without the other one.
        low, high: the limits of 95 % of the differences value - instead with flipped signs.
        p: share of flipped signs whose difference is as far from 0.
        smallest_p: the smallest that so few blocks can give.
        blocks: of neighbouring tokens that share a sign.
        draws, seed: of the signs; exact: the draws are all there are.
    """

    value: float
    instead: float
    low: float
    high: float
    p: float
    smallest_p: float
    blocks: TokenBlocks
    draws: int
    seed: int
    exact: bool


def beside_same_tokens(
    change: Float[np.ndarray, " token"],
    instead: Float[np.ndarray, " token"],
    *,
    block: int | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> SameTokens:
    """Effect of an expert, beside that of another expert of the tokens that use it.

    If it is all the same which of its experts a token loses, the difference of the changes has
    either sign alike. So each draw flips signs, of whole blocks, for neighbours share a context;
    blocks are as long as the likeness of neighbours asks for, see `token_blocks`.

    Reading it: the p-value, of both sides, speaks of such tokens in this text. Where
    `blocks.too_few`, nothing is told. An expert with the larger share of the mix is expected to
    matter more; say that share beside it.

    Raises:
        LensError: the changes are of different tokens, or of none.
    """
    change, instead = np.asarray(change, np.float64), np.asarray(instead, np.float64)
    if change.shape != instead.shape or change.ndim != 1 or change.size == 0:
        raise LensError(
            f"Changes of {change.shape} and {instead.shape} tokens; expected the same tokens twice."
        )
    blocks = token_blocks((change - instead)[None], block)
    sums = block_sums(change - instead, blocks.length) / change.size
    signs, exact = flipped_signs(sums.size, draws, seed)
    drawn = signs @ sums
    low, high = np.quantile(np.append(drawn, sums.sum()), [0.025, 0.975], method="weibull")
    return SameTokens(
        float(change.mean()),
        float(instead.mean()),
        float(low),
        float(high),
        float(monte_carlo_p(abs(sums.sum()), np.abs(drawn))),
        max(2 / 2**sums.size, 1 / (1 + len(signs))),
        blocks,
        len(signs),
        seed,
        exact,
    )


# --- all experts ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EffectAndUse:
    """Correlation of the effects of a sweep with how much the experts are used.

    Attributes:
        correlation: Spearman's, within layers: ranks of both among the layer's experts, all
            layers together. 1 when the most used expert of every layer matters most.
        low, high: what holds 95 % of the draws.
        p: share of draws at least as large.
        draws, seed: of the null, which relabels the experts of each layer.
    """

    correlation: float
    low: float
    high: float
    p: float
    draws: int
    seed: int


def effect_and_use(
    effect: Float[np.ndarray, "layer expert"],
    load: Float[np.ndarray, "layer expert"],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> EffectAndUse:
    """Correlation of effects with use, beside relabelled experts.

    Use is any number for each expert, such as its `weight` or its share of assignments.

    Raises:
        LensError: the shapes differ, or a layer has fewer than two experts.
    """
    from scipy.stats import rankdata

    if effect.shape != load.shape or effect.ndim != 2 or effect.shape[1] < 2:
        raise LensError(
            f"Effect {effect.shape} and use {load.shape}; expected the same [layer, expert] with "
            "at least two experts."
        )
    ranks = [rankdata(array, axis=1) for array in (effect, load)]
    a, b = (one - one.mean(axis=1, keepdims=True) for one in ranks)
    size = np.sqrt((a**2).sum() * (b**2).sum())
    if not size > 0:
        raise LensError(
            "Effect and use: all experts of every layer are alike in one of the two, so that "
            "nothing can be said of how they go together."
        )
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [(a * rng.permuted(b, axis=1)).sum() / size for _ in range(check_draws(draws))]
    )
    value = float((a * b).sum() / size)
    low, high = np.quantile(drawn, [0.025, 0.975], method="weibull")
    return EffectAndUse(
        value, float(low), float(high), float(monte_carlo_p(value, drawn)), draws, seed
    )


def effect_per_use(
    effect: Float[np.ndarray, "layer expert"], load: Float[np.ndarray, "layer expert"], top_k: int
) -> Float[np.ndarray, "layer expert"]:
    """Effect over the share of tokens that use the expert, where the effect is a mean over tokens.

    Reading it: nats for each token that uses it, felt there or later; alike for all experts of a
    layer when use alone decides. Of few tokens it is a rough number, of none it is none.
    """
    used = np.asarray(load, np.float64) * top_k
    return np.where(used > 0, effect / np.where(used > 0, used, 1), np.nan)


def strongest(
    effect: Float[np.ndarray, "layer expert"], count: int = 5
) -> Int[np.ndarray, "place two"]:
    """The (row, expert) pairs of the largest effects, largest first."""
    order = np.argsort(-effect, axis=None, kind="stable")[:count]
    return np.stack(np.unravel_index(order, effect.shape), axis=1)


# --- patches ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Carried:
    """Share of the difference between two prompts that each layer carries at each position.

    Attributes:
        largest: the largest recovered share of a layer over positions [N].
        position: where it is, index into the positions [N].
        control: what the control recovers in the same place [N].
    """

    largest: Float[np.ndarray, " layer"]
    position: Int[np.ndarray, " layer"]
    control: Float[np.ndarray, " layer"]


def carried(
    recovered: Float[np.ndarray, "layer position"], control: Float[np.ndarray, "layer position"]
) -> Carried:
    """The place of each layer that brings most of the clean prompt's answer back.

    Reading it: 1 is all of it; a control near the value says that any value of the clean run
    put there does as much.

    Raises:
        LensError: the two prompts do not differ in the metric, so there is nothing to recover.
    """
    if not np.isfinite(recovered).all():
        raise LensError(
            "The two prompts have the same metric, so there is no difference to recover. Choose "
            "another metric or other prompts."
        )
    best = recovered.argmax(axis=1)
    rows = np.arange(len(best))
    return Carried(recovered[rows, best], best, control[rows, best])
