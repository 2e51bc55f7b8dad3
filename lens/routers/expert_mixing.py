"""Layers whose experts are mixed: the null of "the same expert".

Axes: draw, layer (L), expert (E), pair (of layers), matrix (a pair in one draw).

Multiply a layer's canonical router from the right by a random rotation of the E − 1
directions that its experts span among themselves: W̃ → W̃ · (11ᵀ/E + H Q Hᵀ), with H an
orthonormal basis of the complement of 1 and Q a random orthogonal matrix. Everything that
does not depend on which direction is an expert stays as it is, exactly: the space that
the layer reads and how much it reads of every direction in it (W̃W̃ᵀ), the centring, CKA,
principal angles, norm scales, outlier dimensions. What layers share because all of them
read the same few directions is therefore in the null; only experts that stand for the same
thing are not.

Only inner products are needed: M_aᵀ C_ab M_b, with C_ab those of two layers and M_a, M_b
their mixings, so that d_model does not matter. One set of random rotations serves all
layers, each of which starts at another of them: any two layers have different, independent
ones in every draw.

The null holds exactly for experts drawn from a normal distribution, whatever its covariance.
Where weights have heavy tails, columns differ in length by a few large weights, and mixtures
are less unequal than they are: there the columns can be mixed at equal length instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.routers.best_assignments import best_totals
from lens.routers.gram import RouterGram
from lens.routers.matching import SUBSET_EXPERTS, assign_each, mean_matched

DRAWS = 999
SEED = 0
# Matrices of cosines that are matched at once.
BATCH = 2**14


@dataclass(frozen=True, eq=False)
class ExpertMixings:
    """Random mixings of the experts of each layer, one for every draw.

    Attributes:
        mixing: the set that serves all layers: orthogonal, and 1 stays 1.
        start: where in the set each layer starts.
        draws: how many each layer takes.
        seed: of the random numbers.
    """

    mixing: Float[np.ndarray, "mixing expert expert"]
    start: Int[np.ndarray, " layer"]
    draws: int
    seed: int

    def of(self, layer: int) -> Float[np.ndarray, "draw expert expert"]:
        """The mixings of one layer, in the order of the draws."""
        order = (self.start[layer] + np.arange(self.draws)) % len(self.mixing)
        return self.mixing[order]

    def unit(
        self, gram: RouterGram, layer: int, *, even_lengths: bool = False
    ) -> Float[np.ndarray, "draw expert expert"]:
        """The same, each column over the length of the mixed router column that it makes.

        M_aᵀ C_ab M_b of such mixings are cosines.

        Args:
            gram: inner products of the set.
            layer: row of the layer.
            even_lengths: mix columns of length 1, so that a mixture is not mostly the
                longest of them. Their sum, weighted by their lengths, stays 0.
        """
        mixing = self.of(layer)
        if even_lengths:
            norms = gram.norms[layer]
            turn = _reflection(norms / np.linalg.norm(norms))
            mixing = turn @ mixing @ turn / norms[:, None]
        squares = np.einsum("die,die->de", mixing, gram.own[layer] @ mixing)
        return mixing / np.sqrt(np.maximum(squares, 1e-300))[:, None, :]


def _reflection(unit: Float[np.ndarray, " expert"]) -> Float[np.ndarray, "expert expert"]:
    """The reflection that swaps a unit vector with the one whose entries are all equal."""
    apart = unit - 1 / np.sqrt(len(unit))
    size = float(apart @ apart)
    if size < 1e-12:
        return np.eye(len(unit))
    return np.eye(len(unit)) - 2 / size * np.outer(apart, apart)


def zero_sum_basis(n_experts: int) -> Float[np.ndarray, "expert direction"]:
    """An orthonormal basis of the vectors over experts that sum to 0 (Helmert's)."""
    rows = np.arange(n_experts)[:, None]
    steps = np.arange(1, n_experts)[None]
    basis = np.where(rows < steps, 1.0, np.where(rows == steps, -steps, 0.0))
    return basis / np.sqrt(steps * (steps + 1.0))


def random_orthogonal(
    rng: np.random.Generator, draws: int, n_dims: int
) -> Float[np.ndarray, "draw dim dim"]:
    """Orthogonal matrices, all equally likely (Haar).

    Q of a Gaussian matrix's QR with R's diagonal made positive. Source: Mezzadri, 2007.
    """
    q, r = np.linalg.qr(rng.standard_normal((draws, n_dims, n_dims)))
    return q * np.sign(np.einsum("dii->di", r))[:, None, :]


def expert_mixings(
    n_layers: int, n_experts: int, draws: int = DRAWS, seed: int = SEED
) -> ExpertMixings:
    """Mixings for every layer of a set.

    Args:
        n_layers: layers that take part.
        n_experts: experts a layer; with 2 a mixing can only swap them.
        draws: how often each is mixed.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    n_mixings = max(draws, n_layers)
    basis = zero_sum_basis(n_experts)
    turns = random_orthogonal(rng, n_mixings, n_experts - 1)
    mixing = basis @ turns @ basis.T + 1 / n_experts
    return ExpertMixings(mixing, rng.permutation(n_mixings)[:n_layers], draws, seed)


def mixed_cosines(
    gram: RouterGram, a: int, b: int, mixings: ExpertMixings, *, even_lengths: bool = False
) -> Float[np.ndarray, "draw expert expert"]:
    """Cosines of the experts of two layers, the experts of each mixed anew in every draw."""
    first, second = (mixings.unit(gram, layer, even_lengths=even_lengths) for layer in (a, b))
    return first.transpose(0, 2, 1) @ gram.pair(a, b) @ second


def mixed_matches(
    gram: RouterGram, a: int, b: int, mixings: ExpertMixings, *, even_lengths: bool = False
) -> Float[np.ndarray, "draw expert"]:
    """Cosines of matched experts of two layers, mixed and matched anew in every draw."""
    drawn = mixed_cosines(gram, a, b, mixings, even_lengths=even_lengths)
    return assign_each(drawn)


def mixed_similarities(
    gram: RouterGram, mixings: ExpertMixings
) -> Iterator[tuple[int, Float[np.ndarray, "draw pair"]]]:
    """For every layer but the last, its matched cosines with the layers after it, mixed.

    In float32. Up to 10 experts are matched for many pairs and draws at once.
    """
    n, draws = gram.n_layers, mixings.draws
    if n < 2:
        return
    units = [mixings.unit(gram, layer).astype(np.float32) for layer in range(n)]
    few = gram.n_experts <= SUBSET_EXPERTS
    if few:
        units = [np.ascontiguousarray(unit.transpose(1, 2, 0)) for unit in units]
    batch = max(1, BATCH // draws)
    for a in range(n - 1):
        row = gram.row(a, a + 1).astype(np.float32)  # [E, other, E]
        parts = []
        for start in range(0, n - 1 - a, batch):
            others = range(start, min(start + batch, n - 1 - a))
            if few:
                cells = np.empty((*units[a].shape[:2], len(others), draws), np.float32)
                for b in others:
                    _mix(row[:, b], units[a], units[a + 1 + b], cells[:, :, b - start])
                totals = best_totals(cells.reshape(*cells.shape[:2], -1))
                parts.append(totals.reshape(len(others), draws).T / gram.n_experts)
            else:
                turned = units[a].transpose(0, 2, 1)
                parts += [
                    mean_matched(turned @ row[:, b] @ units[a + 1 + b])[:, None] for b in others
                ]
        yield a, np.concatenate(parts, axis=1)


def _mix(
    cross: Float[np.ndarray, "expert expert"],
    first: Float[np.ndarray, "expert expert draw"],
    second: Float[np.ndarray, "expert expert draw"],
    out: Float[np.ndarray, "expert expert draw"],
) -> None:
    """M_aᵀ C M_b for every draw into `out`, draws last."""
    n_experts, _, draws = first.shape
    half = (cross.T @ first.reshape(n_experts, -1)).reshape(n_experts, n_experts, 1, draws)
    term = np.empty(out.shape, out.dtype)
    np.multiply(half[0], second[0], out=out)  # [e, 1, draw] · [f, draw]
    for j in range(1, n_experts):
        np.multiply(half[j], second[j], out=term)
        out += term
