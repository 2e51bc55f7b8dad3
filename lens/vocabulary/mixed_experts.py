"""Null of the read-out: the experts of a layer, mixed within it.

Axes: layer (L), expert (E), mixture (R of a layer), token, direction (E − 1, of experts),
node (of an integral).

Embeddings and routers have large directions in common, so that a router which knows nothing
of single tokens still has pushes and favourites that no random direction has. Mixtures
of the layer's own experts (`lens.routers.expert_mixing`) read the same space with the same
weights: they know everything of the vocabulary that the layer as a whole knows, but
not which direction is an expert. A mixture is linear in the experts, and so is its push:
pushes of all experts are enough.

For one token the probability is known in closed form. A mixture has coefficients c, evenly
spread over the sphere of directions that sum to 0; with x the pushes of a token and G the
inner products of the columns its push, in lengths of its column, is c·x / √(cᵀGc). That
exceeds v > 0 where cᵀ(xxᵀ − v²G)c > 0 and c·x > 0, a quadratic form with one
positive eigenvalue λ and negative ones −λa:

    P = ½ · P(z² > Σ a_j z_j²) = (1/π) ∫ Π (1 + a_j / sin²θ)^(−1/2) dθ, 0 < θ < π/2

for independent normal z, by Craig's formula for the normal tail (1991).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.routers.expert_mixing import expert_mixings, zero_sum_basis
from lens.routers.gram import RouterGram
from lens.stats.exponential_tail import exponential_tail_p

# Mixtures of all layers together, about, and of one layer at most.
MIXTURES = 4096
MOST_OF_A_LAYER = 400
# Of more experts than these no token is longer in the layer's space than all others.
MANY_EXPERTS = 16
LONGEST = 64
NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)
STEPS = 12  # of Newton's method
SMALLEST = 1e-12
# Pushes are float32: a value this close to a mixture's is the same.
ROUNDING = 1e-5


def layer_mixtures(gram: RouterGram, seed: int) -> Float[np.ndarray, "layer mixture expert"]:
    """Weights of the experts in mixtures whose columns have length 1.

    Whole mixed layers one after another: about 4,096 mixtures, no more than 400 of a layer.
    """
    n_layers, n_experts = gram.n_layers, gram.n_experts
    draws = min(-(-MIXTURES // (n_layers * n_experts)), -(-MOST_OF_A_LAYER // n_experts))
    mixings = expert_mixings(n_layers, n_experts, draws, seed)
    weights = [
        mixings.unit(gram, layer).transpose(0, 2, 1).reshape(-1, n_experts)
        for layer in range(n_layers)
    ]
    return np.stack(weights).astype(np.float32)


def placed(
    values: Float[np.ndarray, "layer expert"], drawn: Float[np.ndarray, "layer mixture"]
) -> Float[np.ndarray, "layer expert"]:
    """p-values of the experts' values among those of the mixtures of their layer."""
    values = values - ROUNDING * np.abs(values)
    return exponential_tail_p(values, drawn.T[:, :, None])


def mixture_tail(
    own: Float[np.ndarray, "expert expert"],
    pushes: Float[np.ndarray, "token expert"],
    values: Float[np.ndarray, " token"],
) -> Float[np.ndarray, " token"]:
    """Probability that a mixture, its column of length 1, is pushed by as much as a value.

    Args:
        own: inner products of a layer's canonical columns.
        pushes: of each token on its experts.
        values: to be reached by the push of that token on a mixture; 1/2 at 0 and below.
    """
    spectrum, vectors = _directions(own)
    squares = np.square(np.asarray(pushes, float) @ vectors)  # [token, direction]
    reach = np.asarray(values, float) * (1 - ROUNDING)
    steep = reach[:, None] ** 2 * spectrum
    p = np.where(reach > 0, SMALLEST, 0.5)
    possible = np.zeros(len(p), bool)
    possible[reach > 0] = (squares[reach > 0] / steep[reach > 0]).sum(axis=1) > 1
    p[possible] = _above(squares[possible], steep[possible])
    return p


def _above(
    squares: Float[np.ndarray, "token direction"], steep: Float[np.ndarray, "token direction"]
) -> Float[np.ndarray, " token"]:
    """The integral of the module's head, from y² and v²Λ of each direction.

    λ is the root of Σ y² / (λ + v²Λ) = 1; the product over the negative eigenvalues is the
    determinant of I − (xxᵀ − v²G) / (λ sin²θ) over the factor of λ.
    """
    total = squares.sum(axis=1)
    root = total.copy()
    for _ in range(STEPS):
        parts = squares / (root[:, None] + steep)
        level = parts.sum(axis=1)
        slope = (parts / (root[:, None] + steep)).sum(axis=1)
        root = np.clip(root + (level**2 - level) / slope, 0, total)
    sines = np.sin(np.pi / 4 * (1 + NODES)) ** 2
    scale = 1 / (np.maximum(root, 1e-12 * total)[:, None] * sines)  # [token, node]
    grown = scale[:, :, None] * steep[:, None]
    apart = scale * (squares[:, None] / (1 + grown)).sum(axis=2) - 1
    logs = np.log1p(grown).sum(axis=2) + np.log(np.maximum(apart, 1e-300) / (1 / sines - 1))
    p = (WEIGHTS * np.exp(-logs / 2)).sum(axis=1) / 4
    return np.clip(p, SMALLEST, 0.5)


def _directions(
    own: Float[np.ndarray, "expert expert"],
) -> tuple[Float[np.ndarray, " direction"], Float[np.ndarray, "expert direction"]]:
    """Squared lengths of the directions of a layer's experts, and their coefficients."""
    basis = zero_sum_basis(len(own))
    values, vectors = np.linalg.eigh(basis.T @ own @ basis)
    return np.maximum(values, 1e-10 * values[-1]), basis @ vectors


class LongTokens:
    """The tokens that are longest in the space of each layer, while the tokens come in.

    A mixture is pushed by no token more than by the token's length in the layer's space, so
    that these alone can push it by more than the shortest of them is long.

    None are kept in the raw view, whose mixtures all hold the mean column, and of many experts.

    Attributes:
        lengths: of their part in the layer's space; −1 where fewer were seen.
        pushes: on the experts.
    """

    def __init__(self, gram: RouterGram, view: str) -> None:
        directions = [_directions(own) for own in gram.own]
        self.own = gram.own
        self.roots = np.stack(
            [(vectors / np.sqrt(values)).T for values, vectors in directions]
        ).astype(np.float32)  # [L, direction, E]
        few = view == "canonical" and gram.n_experts <= MANY_EXPERTS
        kept = LONGEST if few else 0
        self.lengths = np.full((gram.n_layers, kept), -1.0, np.float32)
        self.pushes = np.zeros((gram.n_layers, kept, gram.n_experts), np.float32)

    def add(self, pushes: Float[np.ndarray, "layer expert token"]) -> None:
        """Takes in the tokens that follow."""
        kept = self.lengths.shape[1]
        if not kept:
            return
        parts = self.roots @ pushes
        lengths = np.sqrt(np.einsum("ljt,ljt->lt", parts, parts))
        lengths = np.concatenate([self.lengths, lengths], axis=1)
        rows = np.concatenate([self.pushes, pushes.transpose(0, 2, 1)], axis=1)
        order = np.argpartition(-lengths, kept - 1, axis=1)[:, :kept]
        self.lengths = np.take_along_axis(lengths, order, axis=1)
        self.pushes = np.take_along_axis(rows, order[:, :, None], axis=1)

    def most(self, values: Float[np.ndarray, "layer expert"]) -> Float[np.ndarray, "layer expert"]:
        """Upper limits of the probability that some token pushes a mixture so much.

        The sum over tokens of the closed form (`mixture_tail`); close to the probability where
        that is small. 1 where tokens that were not kept could do it too.
        """
        limits = np.ones(values.shape)
        n_experts, kept = values.shape[1], self.lengths.shape[1]
        if not kept:
            return limits
        for layer, lengths in enumerate(self.lengths):
            each = np.tile(self.pushes[layer], (n_experts, 1))
            p = mixture_tail(self.own[layer], each, np.repeat(values[layer], kept))
            p = np.where(np.tile(lengths, n_experts) < 0, 0, p).reshape(n_experts, kept)
            known = (values[layer] > 0) & (lengths.min() <= values[layer])
            limits[layer] = np.where(known, np.minimum(p.sum(axis=1), 1), 1)
        return limits
