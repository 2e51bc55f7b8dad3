"""Tables of what experts take, as CSV."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lens.storage.csv_text import table_csv


def kinds_csv(
    kinds: Sequence[str],
    share: Float[np.ndarray, "label layer expert"],
    elsewhere: Float[np.ndarray, "label layer expert"],
    q: Float[np.ndarray, "label layer expert"],
    labels: Sequence[str],
) -> str:
    """Every expert's share of each kind's tokens, beside that of all other tokens, and its q."""
    kind, layer, expert = (grid.ravel() for grid in np.indices(share.shape))
    return table_csv(
        {
            "layer": np.asarray(labels)[layer],
            "expert (index in its layer)": expert,
            "kind of text": np.asarray(kinds)[kind],
            "share of its tokens": share.ravel(),
            "share of all other tokens": elsewhere.ravel(),
            "q (Benjamini–Hochberg)": q.ravel(),
        }
    )
