"""Probability that an expert is selected by a token about which nothing is known.

Axes: layer (L), expert (E), point (a sampled vector of logits).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.experts.multivariate_normal import normal_below
from lens.routers.gram import RouterGram

SEED = 20
BATCHES = 16
POINTS = 2**12  # in a batch: 2^16 in all
MANY_EXPERTS = 16
# Points of the integrals: more, up to the most, where two shifts of them differ.
ORTHANT_POINTS = 256
ORTHANT_MOST = 2**15
ORTHANT_ERROR = 1e-3
# Below this share of the largest eigenvalue a direction is rounding.
SINGULAR = 1e-6


@dataclass(frozen=True)
class Breadth:
    """Probability of being selected, with how it was computed.

    Attributes:
        probability: sums to `top_k` over the experts of a layer.
        method: for people: "orthant probabilities" or "sample of …".
        error: largest standard error of a value, from the spread between shifts of
            the points (orthants) or between batches (sample).
    """

    probability: Float[np.ndarray, "layer expert"]
    method: str
    error: float

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.probability, dtype=dtype)


@lru_cache(maxsize=4)
def normal_points(
    n_dims: int, n_points: int = POINTS, batches: int = BATCHES, seed: int = SEED
) -> Float[np.ndarray, "batch dim point"]:
    """Points of the standard normal, the same ones every time.

    In few dimensions a Kronecker sequence, n·α mod 1 with α the powers of the
    number that generalises the golden ratio, shifted once at random: it covers
    the space evenly, which about halves the error. In many dimensions, where it
    no longer does, pseudo-random numbers.
    """
    rng = np.random.default_rng(seed)
    if n_dims > MANY_EXPERTS:
        points = rng.standard_normal((batches, n_dims, n_points), dtype=np.float32)
    else:
        from scipy.special import ndtri

        ratio = 2.0
        for _ in range(64):  # the root of x^(n_dims + 1) = x + 1
            ratio = (1 + ratio) ** (1 / (n_dims + 1))
        alpha = ratio ** -np.arange(1.0, n_dims + 1)[:, None]
        steps = np.arange(1.0, batches * n_points + 1)
        uniform = (alpha * steps + rng.random((n_dims, 1))) % 1
        normal = ndtri(np.clip(uniform, 1e-12, 1 - 1e-12)).astype(np.float32)
        points = normal.reshape(n_dims, batches, n_points).swapaxes(0, 1).copy()
    points.flags.writeable = False
    return points


def points_of(n_experts: int) -> int:
    """Points in a batch: fewer of very many experts, where each of them is long."""
    return POINTS if n_experts <= 64 else POINTS // 2


def logit_factor(own: Float[np.ndarray, "*batch expert expert"]) -> np.ndarray:
    """The symmetric F with F·F the covariance of a layer's logits, at a mean variance of 1.

    Symmetric, so that nearly equal covariances give nearly equal logits.
    """
    values, vectors = np.linalg.eigh(own)
    values = np.maximum(values, 0)
    values = values / values.mean(axis=-1, keepdims=True)
    root = np.einsum("...ik,...k,...jk->...ij", vectors, np.sqrt(values), vectors)
    return root.astype(np.float32)


def chosen(
    logits: Float[np.ndarray, "expert point"], top_k: int, *, mirrored: bool
) -> Float[np.ndarray, "expert point"]:
    """1 where an expert is among the `top_k` largest logits, else 0.

    With `mirrored` each point also stands for its negative, where the smallest
    logits are the largest: values are then 0, 1 or 2.
    """
    n_experts, n_points = logits.shape
    if n_experts > MANY_EXPERTS:
        mask = _largest(logits, top_k)
        return mask + _largest(-logits, top_k) if mirrored else mask
    # How many logits are larger: each of the i earlier ones, less those that are not.
    above = np.repeat(np.arange(n_experts, dtype=np.int8)[:, None], n_points, axis=1)
    for i in range(n_experts):
        for j in range(i):
            larger = (logits[i] > logits[j]).view(np.int8)
            above[j] += larger
            above[i] -= larger
    mask = (above < top_k).astype(np.int8)
    if mirrored:
        mask += above >= n_experts - top_k
    return mask


def _largest(
    logits: Float[np.ndarray, "expert point"], top_k: int
) -> Float[np.ndarray, "expert point"]:
    """1 for the `top_k` largest logits of each point, else 0; ties go to the first expert."""
    rows = np.ascontiguousarray(logits.T)
    kth = len(logits) - top_k
    mask = (rows >= np.partition(rows, kth, axis=1)[:, kth, None]).astype(np.int8)
    tied = np.flatnonzero(mask.sum(axis=1) != top_k)
    if tied.size:
        order = np.argsort(-rows[tied], axis=1, kind="stable")
        mask[tied] = 0
        mask[tied[:, None], order[:, :top_k]] = 1
    return mask.T


def selected_share(
    own: Float[np.ndarray, "layer expert expert"],
    top_k: int,
    *,
    batches: int = BATCHES,
    biases: Float[np.ndarray, "layer expert"] | None = None,
) -> tuple[Float[np.ndarray, "layer expert"], float]:
    """Share of sampled points in which each expert is selected, and its error.

    The same points are sent through a router of equal, unrelated experts, whose
    shares are known to be top_k / n_experts; what the sample gets wrong there
    is taken off (a control variate with one coefficient a layer, which keeps the
    sum over experts). Near-balanced routers come out most precisely.
    """
    n_layers, n_experts = own.shape[:2]
    mirrored = biases is None
    each = 2 if mirrored else 1
    even = np.eye(n_experts) - 1 / n_experts
    truth = top_k / n_experts
    points = normal_points(n_experts, points_of(n_experts), batches)
    factor = logit_factor(own)
    control = [chosen(logit_factor(even) @ part, top_k, mirrored=mirrored) for part in points]
    wrong = np.stack([mask.mean(axis=1) / each - truth for mask in control])
    # 0 for mirrored points of 4 experts, top 2, where there is no error to take off.
    spread = float((control[0] * control[0]).mean()) / each**2 - truth**2
    shares = np.empty((batches, n_layers, n_experts))
    for layer in range(n_layers):
        offset = None
        if biases is not None:
            unit = np.sqrt(np.trace(own[layer]) / n_experts)
            offset = (biases[layer] / unit).astype(np.float32)[:, None]
        rough = np.empty((batches, n_experts))
        coefficient = 0.0
        for s in range(batches):
            logits = factor[layer] @ points[s]
            mask = chosen(logits if offset is None else logits + offset, top_k, mirrored=mirrored)
            rough[s] = mask.mean(axis=1)
            if s == 0 and spread > 1e-9:
                covariance = float((mask * control[0]).mean()) / each**2 - truth**2
                coefficient = min(max(covariance / spread, 0.0), 1.0)
        shares[:, layer] = rough / each - coefficient * wrong
    error = float("nan")
    if batches > 1:
        error = float(shares.std(axis=0, ddof=1).max() / np.sqrt(batches))
    return shares.mean(axis=0), error


def breadth(
    gram: RouterGram,
    top_k: int,
    *,
    method: Literal["auto", "orthants", "sample"] = "auto",
    biases: Float[np.ndarray, "layer expert"] | None = None,
) -> Breadth:
    """Probability that each expert is selected, under an isotropic prior.

    If nothing is known of the residual stream but that it is normalised (mean 0,
    covariance the identity), the logits of a layer are normal with the layer's
    own Gram matrix as covariance, and that alone decides how often each expert
    is among the `top_k`. A long column, and one unlike the others, is selected
    often: a broad expert. Unchanged by a shared column and by a scale per layer.
    When top_k is half of the experts, it is 1/2 for all whatever the weights: the
    negative of a residual selects the other half.

    Reading it: `top_k / n_experts` for all is perfect balance, and a random
    router departs from it by little (`lens.questions` gives the chance level).
    Real residual streams are not isotropic: where traces are at hand the measured
    load is the fact and this is what the weights alone would suggest.

    For top 1 or 2 of at most 16 experts by orthant probabilities,

        P(k in the top 2) = Σ_{j≠k} P(z_k > z_m for all m ∉ {k, j}) − (E − 2)·P(k is first),

    integrated until the standard error of every value is at most 0.001; 64 layers of
    8 experts take about half a second, of 16 some ten. Otherwise, and where two experts
    have the same router, from 2^16 normal points (2^13 above 16 experts, 2^12 above 64) with a
    fixed seed. The two agree to 0.002.

    Args:
        gram: all inner products; canonical, to be exact about the formula.
        top_k: experts a token.
        method: "auto" as above, or one of the two.
        biases: added to the logits when experts are chosen. Relative to logits of
            a residual stream with unit variance, so only meaningful where the view
            is canonical and norm scales are known.

    Raises:
        LensError: `top_k` is out of range, or orthants are asked for where they can't be.
    """
    n_experts = gram.n_experts
    if not 1 <= top_k <= n_experts:
        raise LensError(f"top_k: found {top_k}; expected 1 to {n_experts}, the number of experts.")
    if top_k == n_experts:
        return Breadth(np.ones((gram.n_layers, n_experts)), "all experts are selected", 0.0)
    few = top_k <= 2 and n_experts <= MANY_EXPERTS
    if few and method == "auto":  # experts that coincide have no orthants
        values = np.linalg.eigvalsh(gram.own)
        few = bool((values[:, 1] > SINGULAR * values[:, -1]).all())
    if method == "orthants" and not few:
        raise LensError(
            f"breadth: orthant probabilities are computed for top 1 or 2 of at most "
            f"{MANY_EXPERTS} experts; found top {top_k} of {n_experts}. Use the sampled method."
        )
    if few and method != "sample":
        values, error = _by_orthants(gram.own, top_k, biases)
        return Breadth(values, "orthant probabilities", error)
    batches = BATCHES if n_experts <= MANY_EXPERTS else BATCHES // 8
    shares, error = selected_share(gram.own, top_k, batches=batches, biases=biases)
    return Breadth(shares, f"sample of {batches * points_of(n_experts):,} points", error)


def _by_orthants(
    own: Float[np.ndarray, "layer expert expert"],
    top_k: int,
    biases: Float[np.ndarray, "layer expert"] | None,
) -> tuple[Float[np.ndarray, "layer expert"], float]:
    """P(k in the top 1 or 2) by the formula in `breadth`, and its largest error."""
    n_layers, n_experts, _ = own.shape
    offset = np.zeros((n_layers, n_experts)) if biases is None else np.asarray(biases, np.float64)
    values, errors = np.empty((n_layers, n_experts)), np.full(n_layers, np.inf)
    points, layers = ORTHANT_POINTS, np.arange(n_layers)
    while len(layers) and points <= ORTHANT_MOST:
        shifts = _selected(own[layers], offset[layers], top_k, points)
        shifts *= top_k / shifts.sum(axis=2, keepdims=True)
        values[layers] = shifts.mean(axis=0)
        errors[layers] = shifts.std(axis=0, ddof=1).max(axis=1) / np.sqrt(len(shifts))
        layers, points = np.flatnonzero(errors > ORTHANT_ERROR), 4 * points
    return values, float(errors.max())


def _selected(
    own: Float[np.ndarray, "layer expert expert"],
    offset: Float[np.ndarray, "layer expert"],
    top_k: int,
    points: int,
) -> Float[np.ndarray, "shift layer expert"]:
    experts = range(own.shape[1])
    rivals = [(k, [m for m in experts if m != k]) for k in experts]
    first = _beats(own, offset, rivals, points)
    if top_k == 1:
        return first
    but_one = [(k, [m for m in others if m != j]) for k, others in rivals for j in others]
    either = _beats(own, offset, but_one, points)
    both = either.reshape(*first.shape, len(experts) - 1).sum(axis=-1)
    return both - (len(experts) - 2) * first


def _beats(
    own: Float[np.ndarray, "layer expert expert"],
    offset: Float[np.ndarray, "layer expert"],
    questions: list[tuple[int, list[int]]],
    points: int,
) -> Float[np.ndarray, "shift layer question"]:
    """P(z_k > z_m for all m of a list), z ~ N(offset, own), for each (k, list) and layer."""
    covariances, bounds = [], []
    for k, others in questions:
        among = own[:, others][:, :, others]
        with_k = own[:, k, others]
        covariances.append(own[:, k, k, None, None] + among - with_k[:, None] - with_k[:, :, None])
        bounds.append(offset[:, k, None] - offset[:, others])
    covariance = np.stack(covariances, axis=1)  # [layer, question, m, m]
    bound = np.stack(bounds, axis=1)
    n_dims = bound.shape[-1]
    values = normal_below(
        covariance.reshape(-1, n_dims, n_dims),
        bound.reshape(-1, n_dims),
        points=points,
        shifts=2,
    )
    return values.reshape(2, *bound.shape[:2])
