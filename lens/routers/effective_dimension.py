"""In how many dimensions routers point, without bias by their number.

Axes: layer (L), expert (E).
"""

from __future__ import annotations

import numpy as np

from lens.errors import LensError
from lens.routers.gram import RouterGram


def unbiased_dimension(gram: RouterGram) -> float:
    """ν = (tr S)² / tr S², S the second moment of all columns, from pairs of different layers.

    tr S² is a mean of ⟨w_i, w_j⟩² over independent columns i ≠ j. Columns of one layer are
    not independent of each other, so only pairs of different layers count, each layer in
    units of its own size:

        1 / ν = mean over pairs a ≠ b of ‖W̃_aᵀ W̃_b‖² / (tr W̃_aᵀW̃_a · tr W̃_bᵀW̃_b).

    The plain ratio over all pairs of columns, equal ones included, is at most the number of
    columns, hence far too small where there are fewer columns than dimensions.

    Reading it: d_model for weights that are equally large in all directions; a small
    number says that a few directions, which all layers share, carry most of the weight.

    Raises:
        LensError: there is one layer only.
    """
    if gram.n_layers < 2:
        raise LensError(
            "effective dimension: there is one layer; expected at least 2, whose columns are "
            "compared. Use a router set with more layers."
        )
    size = np.einsum("lee->l", gram.own)
    overlaps = gram.overlaps / (size[:, None] * size)
    mean = overlaps[np.triu_indices(gram.n_layers, 1)].mean()
    return float(1 / max(mean, 1 / gram.d_model / 4))
