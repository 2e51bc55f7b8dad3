"""Routers whose weights are dealt to other experts: the null of "experts are equal".

Axes: draw, layer (L), coordinate (of d_model), expert (E).

In every coordinate of a layer's canonical router the E weights are dealt to the experts in
a random order, another one in each coordinate. How large the weights of a coordinate are
stays: norm scales, outlier dimensions, heavy tails. That one expert has the large ones in
many coordinates is lost. The null holds exactly where coordinates are independent, however
unequal; where they move together, as in a subspace that all experts read, it is too narrow.

Only inner products are wanted, and no draw goes through all of d_model. A coordinate x, dealt
at random, gives x xᵀ, whose mean is known and which splits into two parts that permutations
of experts keep apart: what it adds to the lengths of columns, and the rest, which only
turns them. A sum over thousands of coordinates is normal in each part with the sum of their
variances. The few largest coordinates, for which that would not hold, are dealt one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Coordinates of a layer that are dealt one by one.
LARGE = 16
# Normal numbers that are drawn at once.
HELD = 2**16


@dataclass(frozen=True, eq=False)
class ExchangeMoments:
    """What draws of dealt weights need to know of each layer.

    Attributes:
        level: squared length of the small coordinates for each direction of experts.
        length_sd: spread of the part of their products that changes lengths, in each of
            its E − 1 directions.
        angle_sd: spread of the part that changes angles alone, in each of its
            E(E − 3)/2 directions.
        large: the largest coordinates of each layer.
    """

    level: Float[np.ndarray, " layer"]
    length_sd: Float[np.ndarray, " layer"]
    angle_sd: Float[np.ndarray, " layer"]
    large: Float[np.ndarray, "layer coordinate expert"]


def exchange_moments(columns: Float[np.ndarray, "layer d_model expert"]) -> ExchangeMoments:
    """Moments of the inner products of canonical columns whose weights are dealt anew.

    With s = Σx² over the experts of a coordinate and q = Σx⁴: x xᵀ has the squared length
    s², of which s²/(E − 1) is the mean, (q − s²/E)/(1 − 2/E) changes lengths and the rest
    angles. Coordinates are dealt independently, so that these add up.

    Args:
        columns: canonical, as `RouterSet.columns` gives them: every coordinate sums to 0.
    """
    n_layers, d_model, n_experts = columns.shape
    squares = np.square(columns, dtype=np.float64)
    sums = squares.sum(axis=2)  # [L, d]
    n_large = min(LARGE, d_model)
    largest = np.argpartition(-sums, n_large - 1, axis=1)[:, :n_large]
    large = np.take_along_axis(columns, largest[:, :, None], axis=1).astype(np.float64)
    fourth = np.einsum("lde,lde->ld", squares, squares)
    np.put_along_axis(sums, largest, 0, axis=1)
    np.put_along_axis(fourth, largest, 0, axis=1)
    whole = (sums**2).sum(axis=1)
    length = np.zeros(n_layers)
    if n_experts > 2:
        length = np.maximum(fourth.sum(axis=1) - whole / n_experts, 0) / (1 - 2 / n_experts)
    angle = np.maximum(whole * (1 - 1 / (n_experts - 1)) - length, 0)
    n_angles = max(n_experts * (n_experts - 3) // 2, 1)
    return ExchangeMoments(
        level=sums.sum(axis=1) / (n_experts - 1),
        length_sd=np.sqrt(length / (n_experts - 1)),
        angle_sd=np.sqrt(angle / n_angles) if n_experts > 3 else np.zeros(n_layers),
        large=large,
    )


def exchanged_grams(
    moments: ExchangeMoments, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw layer expert expert"]:
    """Inner products of every layer's columns after its weights were dealt anew."""
    n_layers, _, n_experts = moments.large.shape
    dealt = _dealt(moments.large, draws, rng)
    grams = dealt.swapaxes(-1, -2) @ dealt
    level = moments.level[:, None, None] * (np.eye(n_experts) - 1 / n_experts)
    step = max(1, HELD // n_experts**2)  # layers whose parts stay in a processor's cache
    for draw in range(draws):
        for start in range(0, n_layers, step):
            some = slice(start, start + step)
            few = grams[draw, some]
            lengths, angles = _parts(rng.standard_normal(few.shape))
            lengths *= moments.length_sd[some, None, None]
            angles *= moments.angle_sd[some, None, None]
            few += lengths
            few += angles
            few += level[some]
    return grams


def _parts(
    normal: Float[np.ndarray, "*batch expert expert"],
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric normal matrices whose rows sum to 0, split into lengths and angles.

    A matrix P diag(v) P with Σv = 0 and P the centring is what a change v of squared
    lengths looks like; its product with B is Σ v_k B_kk.
    """
    n_experts = normal.shape[-1]
    symmetric = (normal + np.swapaxes(normal, -1, -2)) / 2
    symmetric -= symmetric.mean(axis=-1, keepdims=True)
    symmetric -= symmetric.mean(axis=-2, keepdims=True)
    diagonal = np.einsum("...ee->...e", symmetric)
    trace = diagonal.sum(axis=-1)[..., None, None]
    even = np.eye(n_experts) - 1 / n_experts
    symmetric -= trace / (n_experts - 1) * even
    if n_experts < 3:
        return np.zeros_like(symmetric), np.zeros_like(symmetric)
    change = np.einsum("...ee->...e", symmetric) / (1 - 2 / n_experts)
    lengths = change[..., None] * np.eye(n_experts)
    lengths -= (change[..., :, None] + change[..., None, :]) / n_experts
    return lengths, symmetric - lengths


def _dealt(
    values: Float[np.ndarray, "layer coordinate expert"], draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw layer coordinate expert"]:
    """The values of each coordinate in a random order, another one in every draw."""
    order = rng.random((draws, *values.shape), dtype=np.float32).argsort(axis=-1)
    return np.take_along_axis(np.broadcast_to(values, order.shape), order, axis=-1)
