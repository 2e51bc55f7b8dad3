"""What one layer looks like whose experts are random mixtures of all experts of all layers.

Axes: draw, layer (L), expert (E), column (n = L · (E − 1), the directions that experts of
all layers span).

Experts drawn from one normal distribution, whatever its covariance, are equal in all that
the covariance allows. That covariance is known from all layers together: a random mixture
of all columns X has inner products Fᵀ XᵀX F, with F a random orthonormal frame. Only the
eigenvalues of XᵀX matter, so that a draw takes no more than a small product.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.routers.expert_mixing import zero_sum_basis
from lens.routers.gram import RouterGram

# Columns whose spectrum is taken; of sets with more, as many layers as hold so many.
MOST_COLUMNS = 1024
# Normal numbers held at once.
HELD = 2**22


def shared_spectrum(gram: RouterGram, *, seed: int = 0) -> Float[np.ndarray, " column"]:
    """Eigenvalues of the inner products of all columns, every layer of total length 1.

    Of sets with very many columns, those of some layers, chosen at random.

    Args:
        gram: inner products, canonical.
        seed: of the choice.
    """
    n_layers, n_experts = gram.n_layers, gram.n_experts
    basis = zero_sum_basis(n_experts)
    some = np.arange(n_layers)
    most = max(MOST_COLUMNS // (n_experts - 1), 1)
    if n_layers > most:
        some = np.sort(np.random.default_rng(seed).choice(n_layers, most, replace=False))
    unit = 1 / np.sqrt(np.einsum("lee->l", gram.own[some]))
    blocks = np.stack([gram.row(int(layer))[:, some] for layer in some])  # [a, e, b, f]
    blocks = blocks * unit[:, None, None, None] * unit[:, None]
    products = np.einsum("ep,aebf,fq->apbq", basis, blocks, basis, optimize=True)
    values = np.linalg.eigvalsh(products.reshape(len(some) * (n_experts - 1), -1))
    return np.maximum(values, 0)


def mixture_grams(
    spectrum: Float[np.ndarray, " column"], n_experts: int, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw expert expert"]:
    """Inner products of the canonical columns of layers mixed from all columns.

    A frame is Z (ZᵀZ)^(-1/2) with Z Gaussian.

    Args:
        spectrum: from `shared_spectrum`.
        n_experts: experts of a drawn layer.
        draws: how many layers.
        rng: source of the frames.
    """
    basis = zero_sum_basis(n_experts)
    n_columns, n_dims = len(spectrum), n_experts - 1
    parts = []
    step = max(1, HELD // (n_columns * n_dims))
    for start in range(0, draws, step):
        z = rng.standard_normal((min(step, draws - start), n_columns, n_dims))
        turned = z.transpose(0, 2, 1)
        values, vectors = np.linalg.eigh(turned @ z)
        root = (vectors / np.sqrt(values)[:, None]) @ vectors.transpose(0, 2, 1)
        inner = root @ ((turned * spectrum) @ z) @ root
        parts.append(basis @ inner @ basis.T)
    return np.concatenate(parts)
