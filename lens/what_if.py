"""What an intervention on one expert changes, beside the same on the others of its layer.

Axes: layer (L), token (T), expert (E), choice (K), layers of a sweep (N), positions (P).

Banning any expert that a text uses changes something. Whether this expert matters is a
question about the difference from its neighbours, so everything here stands beside what the
same intervention does with the layer's other experts. With E experts the smallest p that a
rank among them can have is 1/E: one text and one layer rarely show more than an order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.multiple import monte_carlo_p
from lens.shuffles import SEED, checked_draws
from lens.traces import RoutedTokens

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
    shared = (a[..., :, None] == b[..., None, :]) & (a[..., :, None] >= 0)
    chosen = np.maximum((a >= 0).sum(axis=-1), (b >= 0).sum(axis=-1))
    return shared.sum(axis=(-2, -1)) / np.maximum(chosen, 1)


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


# --- all experts ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EffectAndUse:
    """How far the effects of a sweep follow how much the experts are used.

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
    """Whether experts that are used more matter more, beside relabelled experts.

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
        [(a * rng.permuted(b, axis=1)).sum() / size for _ in range(checked_draws(draws))]
    )
    value = float((a * b).sum() / size)
    low, high = np.quantile(drawn, [0.025, 0.975], method="weibull")
    return EffectAndUse(
        value, float(low), float(high), float(monte_carlo_p(value, drawn)), draws, seed
    )


def strongest(
    effect: Float[np.ndarray, "layer expert"], count: int = 5
) -> Int[np.ndarray, "place two"]:
    """The (row, expert) pairs of the largest effects, largest first."""
    order = np.argsort(-effect, axis=None, kind="stable")[:count]
    return np.stack(np.unravel_index(order, effect.shape), axis=1)


# --- patches ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Carried:
    """How much of the difference between two prompts each layer carries, and where.

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
