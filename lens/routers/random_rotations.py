"""Unrelated layers that keep everything each layer is by itself: the rotation null.

Axes: draw, layer (L), expert (E), rank (R, directions that a router's columns span).

Turn each router by a random rotation of the residual stream of its own. Its norms,
its spectrum and the angles between its experts stay; only how it lies relative to
the other layers becomes arbitrary. A pair of layers then has inner products
F_a Q F_bᵀ, with F a root of each layer's own Gram matrix (F Fᵀ = own) and Q a corner
of a random rotation. That corner is drawn in E dimensions, whatever d_model is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from lens.routers.gram import HELD_COLUMNS, RouterGram
from lens.stats.chance import gaussian_grams

# Eigenvalues below this share of a layer's largest are rounding.
RANK_TOLERANCE = 1e-5


def corners(
    rng: np.random.Generator, draws: int, d_model: int, n_rows: int, n_columns: int
) -> Float[np.ndarray, "draw row column"]:
    """Upper left corners of random rotations of `d_model` dimensions.

    Equally: the inner products of two independent random orthonormal frames. A
    frame of d rows is Z (ZᵀZ)^(-1/2) with Z Gaussian; its first rows X and the
    Wishart matrix of the others are all that the corner needs. Entries have mean
    0 and variance 1 / d_model. Both numbers of directions are at most `d_model`.
    """
    first = rng.standard_normal((draws, n_rows, n_columns))
    rest = gaussian_grams(rng, draws, d_model - n_rows, n_columns)
    factor = np.linalg.cholesky(first.transpose(0, 2, 1) @ first + rest)
    return np.linalg.solve(factor, first.transpose(0, 2, 1)).transpose(0, 2, 1)


def spectrum(
    own: Float[np.ndarray, "layer expert expert"], d_model: int
) -> tuple[Float[np.ndarray, "layer rank"], Float[np.ndarray, "layer expert rank"]]:
    """Eigenvalues of each layer's Gram matrix, largest first, and F with F Fᵀ = own.

    As many as the layer of the highest rank has; those that are rounding are 0.
    """
    values, vectors = np.linalg.eigh(own)
    values, vectors = values[:, ::-1], vectors[:, :, ::-1]
    values = np.where(values > RANK_TOLERANCE * values[:, :1], values, 0)
    rank = min(int((values > 0).sum(axis=1).max()), d_model)
    values = values[:, :rank]
    return values, vectors[:, :, :rank] * np.sqrt(values)[:, None, :]


def layer_corners(
    gram: RouterGram, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw rank rank"]:
    """Random corners of as many directions as a layer of the set can span."""
    rank = min(gram.n_experts, gram.d_model)
    return corners(rng, draws, gram.d_model, rank, rank)


def unrelated_sets(gram: RouterGram, draws: int, seed: int) -> Iterator[RouterGram]:
    """The whole set with every layer turned at random, again and again.

    For statistics of many pairs at once, whose pairs must hang together as those
    of a real set do. One draw costs a product of as many columns as the set has,
    in as many dimensions (or d_model, if that is less).
    """
    rng = np.random.default_rng(seed)
    n_layers, n_experts, d_model = gram.n_layers, gram.n_experts, gram.d_model
    _, roots = spectrum(gram.own, d_model)  # [L, E, R]
    rank = roots.shape[2]
    n_columns = n_layers * rank
    sums = np.zeros((n_layers, n_experts))  # of columns in no direction in particular
    for _ in range(draws):
        if n_layers * n_experts > HELD_COLUMNS:
            frames = np.linalg.qr(rng.standard_normal((n_layers, d_model, rank)))[0]
            columns = (roots @ frames.transpose(0, 2, 1)).astype(np.float32)
            unit = np.ones(n_layers)
            yield RouterGram(gram.own, sums, d_model, None, columns, unit, gram.layer_ids)
            continue
        products = gaussian_grams(rng, 1, d_model, n_columns)[0]
        blocks = products.reshape(n_layers, rank, n_layers, rank)
        layers = np.arange(n_layers)
        factor = np.linalg.cholesky(blocks[layers, :, layers, :])
        turn = roots @ np.linalg.inv(factor)  # [L, E, R]
        # Block-diagonal on both sides: one small product a pair of layers.
        half = np.einsum("aer,arbs->aebs", turn, blocks, optimize=True)
        held = np.einsum("aebs,bfs->aebf", half, turn, optimize=True)
        held[layers, :, layers, :] = gram.own
        yield RouterGram(gram.own, sums, d_model, held=held, layer_ids=gram.layer_ids)
