"""Similarity of experts as one would write it first (classic), from one Gram matrix.

Axes: layer (L), expert (E). Cosines that ask for no labels are those of `RouterGram` itself.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.routers.gram import RouterGram


def expert_similarity_across_layers(gram: RouterGram) -> Float[np.ndarray, "expert layer layer"]:
    """Cosine between expert k of one layer and expert k of another (classic).

    Labels mean nothing across layers, so this is no statement about "the same"
    expert; `lens.experts.chains.significant_chains` follows experts by what they read.
    Reading it: chance is 0 with spread 1/√d.
    """
    across = np.empty((gram.n_experts, gram.n_layers, gram.n_layers))
    for layer in range(gram.n_layers):
        across[:, layer] = np.einsum("ebe->eb", gram.cosine_row(layer))
    return across


def expert_correlation(gram: RouterGram) -> Float[np.ndarray, "layer expert expert"]:
    """Pearson correlation between the router columns of each layer (classic).

    The cosine after each column's own mean over d_model was removed. Same
    reading and same baseline as the cosine (`RouterGram.own_cosines`).

    Raises:
        LensError: a column is constant, so that its correlation is undefined.
    """
    covariance = gram.own - gram.sums[:, :, None] * gram.sums[:, None, :] / gram.d_model
    variance = np.einsum("lee->le", covariance)
    flat = variance <= 1e-12 * gram.norms**2
    if flat.any():
        layer, expert = np.argwhere(flat)[0]
        name = layer if gram.layer_ids is None else gram.layer_ids[layer]
        raise LensError(
            f"Layer {name}, expert {expert}: all weights of the router column are equal, so it has "
            "no correlation with another; expected weights that differ. Use the cosine instead."
        )
    spread = np.sqrt(variance)
    correlation = covariance / (spread[:, :, None] * spread[:, None, :])
    diagonal = np.arange(gram.n_experts)
    correlation[:, diagonal, diagonal] = 1
    return np.clip(correlation, -1, 1)
