"""Tables of what experts take, as CSV."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lens.many_prompts.expert_cards import ExpertCards
from lens.storage.csv_text import table_csv


def kinds_csv(
    cards: ExpertCards,
    labels: Sequence[str],
) -> str:
    """Every expert's share of each kind's tokens, beside that of all other tokens, and its q."""
    kind, layer, expert = (grid.ravel() for grid in np.indices(cards.share.shape))
    return table_csv(
        {
            "layer": np.asarray(labels)[layer],
            "expert (index in its layer)": expert,
            "kind of text": np.asarray(cards.labels)[kind],
            "share of its tokens": cards.share.ravel(),
            "share of all other tokens": cards.elsewhere.ravel(),
            "q (Benjamini–Hochberg)": cards.label_q.ravel(),
        }
    )
