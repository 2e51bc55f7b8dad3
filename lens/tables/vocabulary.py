"""Read-outs of the vocabulary as CSV text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lens.storage.csv_text import table_csv
from lens.vocabulary.one_token import TokenReading
from lens.vocabulary.readout import TESTS, Readout

Piece = Callable[[int], str]


def tokens_csv(
    readout: Readout,
    labels: Sequence[str],
    piece: Piece | None,
    *,
    kept: int | None = None,
    only: tuple[int, int] | None = None,
    ends: Sequence[str] = ("top", "bottom"),
) -> str:
    """One row for each of the most extreme tokens of every expert, or of one, at both ends.

    Args:
        kept: tokens of each expert and end; all that were kept by default.
        only: a single expert, as (layer, expert).
    """
    n_layers, n_experts, n_ranks = readout.top.shape
    ranks = np.arange(n_ranks if kept is None else min(kept, n_ranks))
    experts = np.ndindex(n_layers, n_experts) if only is None else [only]
    columns: dict[str, list[Any]] = {}
    for layer, expert in experts:
        for end in ends:
            ids = getattr(readout, end)[layer, expert, ranks]
            low, high = readout.mixed_band(layer, expert, end)
            unrelated = readout.chance_band(layer, expert, end)
            rows = {
                "layer": [labels[layer]] * len(ranks),
                "expert (index in its layer)": [expert] * len(ranks),
                "end": [end] * len(ranks),
                "rank": ranks + 1,
                "token (id)": ids,
                "piece": ["" if piece is None else piece(int(t)) for t in ids],
                "push (logits)": getattr(readout, f"{end}_push")[layer, expert, ranks],
                "margin (logits)": getattr(readout, f"{end}_margin")[layer, expert, ranks],
                "mixed experts of the layer, low (2.5 %)": low[ranks],
                "mixed experts of the layer, high (97.5 %)": high[ranks],
                "unrelated directions, low (2.5 %)": unrelated[0][ranks],
                "unrelated directions, high (97.5 %)": unrelated[1][ranks],
            }
            for name, values in rows.items():
                columns.setdefault(name, []).extend(values)
    return table_csv(columns)


def listening_csv(readout: Readout, labels: Sequence[str]) -> str:
    """One row for each expert: how much it listens to the vocabulary, and chance beside it."""
    layer, expert = (grid.ravel() for grid in np.indices(readout.share.shape))
    columns: dict[str, Any] = {
        "layer": np.asarray(labels)[layer],
        "expert (index in its layer)": expert,
        "length of the column (units of the weights)": readout.norm.ravel(),
        "mean push (logits)": readout.mean.ravel(),
        "spread of the push (logits)": readout.sd.ravel(),
        "largest push (logits)": readout.top_push[..., 0].ravel(),
        "smallest push (logits)": readout.bottom_push[..., 0].ravel(),
        "share of tokens that would select it (0 to 1)": readout.share.ravel(),
        "share of mixed experts as long, low (2.5 %)": readout.share_low.ravel(),
        "share of mixed experts as long, high (97.5 %)": readout.share_high.ravel(),
    }
    for test, p, q, zero in zip(TESTS, readout.p, readout.q, readout.unrelated_q, strict=True):
        columns[f"p of {test} ({readout.mixtures} mixed experts of the layer)"] = p.ravel()
        columns[f"q of {test} (Benjamini-Hochberg over all)"] = q.ravel()
        columns[f"q of {test}, unrelated directions ({readout.draws})"] = zero.ravel()
    return table_csv(columns)


def reading_csv(reading: TokenReading, labels: Sequence[str]) -> str:
    """One row for each expert: what it makes of one token."""
    layer, expert = (grid.ravel() for grid in np.indices(reading.push.shape))
    order = np.zeros(reading.push.shape, int)
    rows = np.arange(len(reading.chosen))[:, None]
    order[rows, reading.chosen] = np.arange(1, reading.chosen.shape[1] + 1)
    return table_csv(
        {
            "layer": np.asarray(labels)[layer],
            "expert (index in its layer)": expert,
            "push (logits)": reading.push.ravel(),
            "margin (logits)": reading.margin.ravel(),
            "choice (1: first; 0: not selected)": order.ravel(),
            "z (push / length of the column; random direction: 0 ± 1)": reading.z.ravel(),
            "p (mixed experts of the layer)": reading.p.ravel(),
            "q (Benjamini-Hochberg over all)": reading.q.ravel(),
            "q, unrelated directions": reading.unrelated_q.ravel(),
        }
    )
