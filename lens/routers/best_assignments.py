"""The best one-to-one assignment of many small matrices at once.

Axes: row (an expert of one layer), column (one of the other), matrix.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# Matrices that go through together: their table stays in a processor's cache.
CHUNK = 2**13


def best_totals(cells: Float[np.ndarray, "row column matrix"]) -> Float[np.ndarray, " matrix"]:
    """The largest total of an assignment, for every matrix, by sets of columns.

    The best that the first k rows can do with a set of k columns is the best, over the
    column j of row k, of what the rows before it do with the others: 2^E · E/2 additions,
    each over a whole chunk of matrices, in the type of `cells`.
    """
    n_matrices = cells.shape[-1]
    parts = [_totals(cells[:, :, i : i + CHUNK]) for i in range(0, n_matrices, CHUNK)]
    return np.concatenate(parts) if parts else np.empty(0)


def _totals(cells: Float[np.ndarray, "row column matrix"]) -> Float[np.ndarray, " matrix"]:
    n_rows, _, n_matrices = cells.shape
    best = np.empty((2**n_rows, n_matrices), cells.dtype)
    best[0] = 0
    other = np.empty(n_matrices, cells.dtype)
    for members in range(1, 2**n_rows):
        row = members.bit_count() - 1
        target, untouched = best[members], True
        for column in range(n_rows):
            if not members >> column & 1:
                continue
            before = best[members ^ (1 << column)]
            np.add(before, cells[row, column], out=target if untouched else other)
            if not untouched:
                np.maximum(target, other, out=target)
            untouched = False
    return best[-1].astype(np.float64)
