"""Neighbourhood of a choice of experts: the choice it nearly was, and tokens that chose alike.

Axes: token (T), expert (E), choice (K), d_model (d), draw, neighbour (N). All of one layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.chosen_by import shares
from lens.errors import LensError
from lens.recipe.steps import remembered
from lens.routers.expert_mixing import expert_mixings
from lens.routers.router_set import RouterSet
from lens.stats.permutation_tests import SEED
from lens.traces.protocols import RoutedText, RoutedTokens

DIRECTIONS = 999
# Pairs of tokens whose distances are all computed; of more, so many are drawn.
MOST_PAIRS = 150_000
# Tokens whose nearest neighbours are looked for, at least.
FEWEST = 40
# Numbers of a block that are held at once.
HELD = 2**22


# --- what would have flipped a choice -------------------------------------------------


@dataclass(frozen=True, eq=False)
class Flips:
    """The smallest change of each token that gives it other experts in one layer.

    Attributes:
        push: its length, as a share of the length of what the router reads.
        leaves: the expert that it takes away.
        enters: the expert that comes in its place.
        next_in_line: the unchosen expert with the largest logit.
        last_chosen: the chosen expert with the smallest logit.
        margin: logit of `last_chosen` less that of `next_in_line`.
        norm: length of what the router reads, √d_model, in the units of the columns.
    """

    push: Float[np.ndarray, " token"]
    leaves: Int[np.ndarray, " token"]
    enters: Int[np.ndarray, " token"]
    next_in_line: Int[np.ndarray, " token"]
    last_chosen: Int[np.ndarray, " token"]
    margin: Float[np.ndarray, " token"]
    norm: float

    def closer(self, token: int) -> float:
        """Share of the other tokens that a smaller push gives other experts.

        Reading it: 0 is the closest call of the text in this layer, 1 the safest; one half
        is a choice like any other.
        """
        others = np.delete(self.push, token)
        return float(np.mean(others < self.push[token])) if len(others) else float("nan")


@remembered
def flips(trace: RoutedText, routers: RouterSet, layer: int) -> Flips:
    """Distance of each token of a layer to the nearest other choice of experts.

    A router reads the residual stream after an RMS norm, a vector x of length √d_model, and
    gives x · w_e, with the norm's scale folded into the columns w. Expert b takes the place
    of a where x · (w_a − w_b) changes its sign, which is a plane; the nearest one over all
    chosen a and unchosen b, (z_a − z_b) / ‖w_a − w_b‖, is the smallest push that changes
    which experts are chosen. The norm stretches x back to its length afterwards, which
    changes no order, so the same share of the residual stream's own length does the same
    before the norm. What is added to all columns of a layer cancels.

    Reading it: 0.02 is 2 % of the length, in just the right direction. `mixed_pushes` says how
    far a direction has to go that the layer reads but that means no expert, `random_pushes`
    how far any direction of d_model dimensions has to: of the order of √d_model times as far.

    Args:
        trace: made by the model that these are the routers of.
        routers: its routers.
        layer: row.

    Raises:
        LensError: other routers, routers without their norm's scales or with biases, sigmoid
            gates, experts that were not chosen by their logits, or all experts chosen.
    """
    logits, chosen = _choice(trace, routers, layer)
    w = _columns(routers, layer)
    pairs = np.linalg.norm(w[:, :, None] - w[:, None, :], axis=0)  # [E, E]
    n_tokens, n_experts = logits.shape
    rows = np.arange(n_tokens)
    push = np.full(n_tokens, np.inf)
    leaves = np.zeros(n_tokens, dtype=int)
    enters = np.zeros(n_tokens, dtype=int)
    for a in range(n_experts):  # [T, E] at a time
        gap = logits[:, a, None] - logits
        with np.errstate(divide="ignore", invalid="ignore"):
            length = gap / pairs[a]
        length = np.where(chosen[:, a, None] & ~chosen & (pairs[a] > 0), length, np.inf)
        b = length.argmin(axis=1)
        better = length[rows, b] < push
        push[better], leaves[better], enters[better] = length[rows, b][better], a, b[better]
    last = np.where(chosen, logits, np.inf).argmin(axis=1)
    following = np.where(chosen, -np.inf, logits).argmax(axis=1)
    norm = float(np.sqrt(w.shape[0]))
    return Flips(
        push=push / norm,
        leaves=leaves,
        enters=enters,
        next_in_line=following,
        last_chosen=last,
        margin=logits[rows, last] - logits[rows, following],
        norm=norm,
    )


@remembered
def random_pushes(
    trace: RoutedText,
    routers: RouterSet,
    layer: int,
    token: int,
    *,
    draws: int = DIRECTIONS,
    seed: int = SEED,
) -> Float[np.ndarray, " draw"]:
    """Length of a push in random directions until a token's experts change.

    Directions are uniform on the sphere, unrelated to all that the layer reads: the absolute
    zero beside `mixed_pushes`, and always far beyond the smallest push.

    Returns:
        Lengths as a share of the length of what the router reads; infinite where a direction
        never changes the choice.

    Raises:
        LensError: as `flips` does.
    """
    logits, chosen = _choice(trace, routers, layer)
    w = _columns(routers, layer)
    slope = _random_slopes(w, draws, np.random.default_rng(seed))
    return _pushes(logits[token], chosen[token], slope) / np.sqrt(w.shape[0])


@remembered
def mixed_pushes(
    trace: RoutedText,
    routers: RouterSet,
    layer: int,
    token: int,
    *,
    draws: int = DIRECTIONS,
    seed: int = SEED,
) -> Float[np.ndarray, " draw"]:
    """Length of a push from one mixed expert to another until a token's experts change.

    The layer's experts are mixed, see `lens.routers.expert_mixing`, and the push goes along the
    difference of two of the mixtures. The control for `flips`: the directions lie where the
    layer's columns do, with what all of them read much of, but no expert has them.

    Returns:
        Lengths as `random_pushes` gives them.

    Raises:
        LensError: as `flips` does.
    """
    logits, chosen = _choice(trace, routers, layer)
    w = _columns(routers, layer)
    mixing = expert_mixings(1, w.shape[1], draws, seed).of(0)
    way = mixing[:, :, 0] - mixing[:, :, 1]  # [draw, E]
    slope = way @ (w.T @ w)
    slope /= np.sqrt(np.maximum((slope * way).sum(axis=1), 1e-300))[:, None]
    return _pushes(logits[token], chosen[token], slope) / np.sqrt(w.shape[0])


def _pushes(
    z: Float[np.ndarray, " expert"],
    own: Bool[np.ndarray, " expert"],
    slope: Float[np.ndarray, "draw expert"],
) -> Float[np.ndarray, " draw"]:
    """How far logits that change by `slope` for each unit go until another expert is chosen."""
    length = np.full(len(slope), np.inf)
    for a in np.flatnonzero(own):
        speed = slope[:, ~own] - slope[:, a, None]  # b gains on a, per unit of length
        with np.errstate(divide="ignore"):
            meets = np.where(speed > 0, (z[a] - z[~own]) / speed, np.inf)
        length = np.minimum(length, meets.min(axis=1))
    return length


def _random_slopes(
    w: Float[np.ndarray, "d_model expert"], draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw expert"]:
    """u · w of directions u that are uniform on the sphere.

    A normal vector over its length is such a direction. Only its part in the columns' span is
    drawn; of the rest, which no column sees, the squared length alone, which is χ².
    """
    basis, coordinates = np.linalg.qr(w)
    inside = rng.standard_normal((draws, basis.shape[1]))
    unseen = w.shape[0] - basis.shape[1]
    rest = rng.chisquare(unseen, draws) if unseen else np.zeros(draws)
    length = np.sqrt((inside**2).sum(axis=1) + rest)
    return (inside @ coordinates) / length[:, None]


def _choice(
    trace: RoutedText, routers: RouterSet, layer: int
) -> tuple[Float[np.ndarray, "token expert"], Bool[np.ndarray, "token expert"]]:
    """Logits of a layer, and which experts were chosen by them."""
    n_layers, n_tokens, n_experts = trace.router_logits.shape
    if trace.model_sha256 != routers.sha256:
        raise LensError(
            f"The trace was made by routers {trace.model_sha256[:12]}…; these are "
            f"{routers.sha256[:12]}…. Open the routers of the model that made the trace."
        )
    if routers.norm_scales is None or routers.score != "softmax" or routers.biases is not None:
        raise LensError(
            "What would flip a choice is known for softmax routers without biases, behind a norm "
            "whose scales are known; these are not of that kind."
        )
    if not 0 <= layer < n_layers:
        raise LensError(f"Layer row {layer}: this trace has rows 0 to {n_layers - 1}.")
    top_k = trace.experts.shape[2]
    if top_k >= n_experts:
        raise LensError(f"All {n_experts} experts are chosen by every token: nothing can flip.")
    logits = np.asarray(trace.router_logits[layer], dtype=np.float64)
    chosen = members(trace.experts[layer], n_experts)
    least = np.where(chosen, logits, np.inf).min(axis=1)
    most = np.where(chosen, -np.inf, logits).max(axis=1)
    if not np.isfinite(logits).all() or (chosen.sum(axis=1) != top_k).any() or (least < most).any():
        raise LensError(
            "In this layer experts were not chosen by their logits alone: the run was changed by "
            "an intervention. Look at the prompt without it."
        )
    return logits, chosen


def _columns(routers: RouterSet, layer: int) -> Float[np.ndarray, "d_model expert"]:
    """The columns with the norm's scale folded in, without what all of them share."""
    w = routers.routers[layer].astype(np.float64)
    if routers.norm_scales is not None:
        w = w * routers.norm_scales[layer][:, None]
    return w - w.mean(axis=1, keepdims=True)


def members(
    experts: Int[np.ndarray, "*tokens choice"], n_experts: int
) -> Bool[np.ndarray, "*tokens expert"]:
    """Which experts each token has; a choice of -1 stands for none."""
    return (experts[..., None] == np.arange(n_experts)).any(axis=-2)


# --- the tokens that were routed alike ------------------------------------------------


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The other tokens of a text that a layer's router sees most alike.

    Attributes:
        tokens: nearest first.
        distance: Jensen–Shannon distance to each, 0 to √ln 2 (0.83).
        closer: share of all pairs of tokens of this layer that are at least as close.
        as_near: share of the text's tokens that have a nearest neighbour as near, this one
            counted; the rank of its distance among theirs.
        median: of the distance of all pairs of this layer.
        pairs: how many pairs those are; `seed` of their draw where they are not all.
    """

    tokens: Int[np.ndarray, " neighbour"]
    distance: Float[np.ndarray, " neighbour"]
    closer: Float[np.ndarray, " neighbour"]
    as_near: float
    median: float
    pairs: int
    seed: int | None


def pair_distances(
    probs: Float[np.ndarray, "token expert"], *, seed: int = SEED, most: int = MOST_PAIRS
) -> tuple[Float[np.ndarray, " pair"], int | None]:
    """Jensen–Shannon distances of the pairs of tokens of a layer, in ascending order.

    Returns:
        The distances of all pairs and None, or of `most` random ones and the seed.
    """
    n_tokens = len(probs)
    if n_tokens * (n_tokens - 1) // 2 <= most:
        a, b = np.triu_indices(n_tokens, 1)
        used = None
    else:
        rng = np.random.default_rng(seed)
        a = rng.integers(0, n_tokens, most)
        b = (a + rng.integers(1, n_tokens, most)) % n_tokens
        used = seed
    p = np.asarray(probs, dtype=np.float64)
    found = np.empty(len(a))
    block = max(HELD // p.shape[1], 1)
    for start in range(0, len(a), block):
        part = slice(start, start + block)
        found[part] = js_distance(p[a[part]], p[b[part]])
    return np.sort(found), used


def nearest_distances(
    probs: Float[np.ndarray, "token expert"], *, seed: int = SEED, most: int = MOST_PAIRS
) -> Float[np.ndarray, " token"]:
    """Distance of each token to the nearest other one, in ascending order.

    Of a text with many tokens, of a random part of them.
    """
    p = np.asarray(probs, dtype=np.float64)
    n_tokens = len(p)
    count = n_tokens if n_tokens * n_tokens <= 2 * most else max(most // n_tokens, FEWEST)
    tokens = np.arange(n_tokens)
    if count < n_tokens:
        tokens = np.random.default_rng(seed).choice(n_tokens, count, replace=False)
    found = np.empty(len(tokens))
    for i, token in enumerate(tokens):
        distance = js_distance(p, p[token])
        distance[token] = np.inf
        found[i] = distance.min()
    return np.sort(found)


def js_distance(
    p: Float[np.ndarray, "*tokens expert"], q: Float[np.ndarray, "*tokens expert"]
) -> Float[np.ndarray, "*tokens"]:
    """Square root of the Jensen–Shannon divergence in nats: a metric from 0 to √ln 2.

    The divergence is H((p + q) / 2) − (H(p) + H(q)) / 2.
    """
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    # Near 0 the entropies cancel up to rounding.
    return np.sqrt(np.maximum(divergence, 0))


def neighbours(
    trace: RoutedTokens,
    layer: int,
    token: int,
    *,
    count: int = 8,
    pairs: tuple[Float[np.ndarray, " pair"], int | None] | None = None,
    nearest: Float[np.ndarray, " token"] | None = None,
) -> Neighbours:
    """The tokens whose gates in a layer are most like those of one token.

    Compared are the routers' softmax distributions over all experts. Every token has a
    nearest neighbour, and with many tokens that one is near by chance alone, nearer still for
    a token like many others: so its distance is ranked among those of the text's other tokens
    to their nearest ones (`as_near`), which `closer` does not do.

    Args:
        pairs: `pair_distances` of this layer, where it is known already.
        nearest: `nearest_distances` of this layer, where it is known already.

    Raises:
        LensError: the text has one token, or not this token or layer.
    """
    n_layers, n_tokens, _ = trace.router_probs.shape
    if not (0 <= layer < n_layers and 0 <= token < n_tokens):
        raise LensError(
            f"Layer row {layer}, token {token}: this trace has {n_layers} layers and {n_tokens} "
            "tokens."
        )
    if n_tokens < 2:
        raise LensError("The text has one token, so it has no neighbours. Use a longer text.")
    probs = shares(trace.router_probs[layer])
    known, seed = pair_distances(probs) if pairs is None else pairs
    distance = js_distance(probs, probs[token])
    order = np.argsort(distance, kind="stable")
    order = order[order != token][:count]
    near = distance[order]
    closer = np.searchsorted(known, near * (1 + 1e-9), side="right") / len(known)
    nearest = nearest_distances(probs) if nearest is None else nearest
    reached = np.searchsorted(nearest, near[0] * (1 + 1e-9), side="right")
    extra = int(len(nearest) < n_tokens)  # of a part of the tokens this one is one more
    return Neighbours(
        tokens=order,
        distance=near,
        closer=closer,
        as_near=float((reached + extra) / (len(nearest) + extra)),
        median=float(np.median(known)),
        pairs=len(known),
        seed=seed,
    )


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=-1)
