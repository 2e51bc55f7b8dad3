"""Unrelated layers by shuffled coordinates: the permutation null.

Axes: draw, layer (L), d_model (d), expert (E).

Each layer's d_model coordinates are put into a random order, the same for all its
columns and another for every layer. A router keeps its weights and the angles between
its experts; what layers have in common because they read the same coordinates is gone.
Unlike the rotation null it keeps how unevenly a layer's weight is spread over the
coordinates, so a few dominant ones make it wider. Every draw costs a new product of all
columns: at [64, 6144, 8] about as much as a thousand draws of the rotation null.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from lens.routers.gram import HELD_COLUMNS, RouterGram, gram_of_columns


def permuted_sets(
    columns: Float[np.ndarray, "layer d_model expert"],
    draws: int,
    seed: int,
    *,
    layer_ids: np.ndarray | None = None,
    held_columns: int = HELD_COLUMNS,
) -> Iterator[RouterGram]:
    """The set with the coordinates of every layer shuffled, again and again.

    Args:
        columns: of the view to be compared, as `RouterSet.columns` gives them.
        draws: how many.
        seed: of the random orders.
        layer_ids: for messages.
        held_columns: see `lens.routers.gram.router_gram`.
    """
    rng = np.random.default_rng(seed)
    n_layers, d_model, _ = columns.shape
    shuffled = np.empty_like(columns)
    for _ in range(draws):
        for layer in range(n_layers):
            np.take(columns[layer], rng.permutation(d_model), axis=0, out=shuffled[layer])
        yield gram_of_columns(shuffled, layer_ids, held_columns=held_columns)
