"""The report's figures and tables of what the experts listen to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import altair as alt
import numpy as np

from lens.figures.routers import vocabulary as figures
from lens.report.parts import Part
from lens.routers.router_set import RouterSet
from lens.tables import vocabulary as vocabulary_tables
from lens.tables.vocabulary import Piece
from lens.vocabulary.readout import Readout

WRITTEN = 3  # tokens in a cell of the figure of all experts


def vocabulary_parts(
    readout: Readout, routers: RouterSet, labels: Sequence[str], piece: Piece | None = None
) -> list[Part]:
    """Maps of how much each expert listens, its first tokens written out, and two tables.

    Args:
        readout: of these routers.
        labels: names of the layers.
        piece: text of a token id; ids stand for themselves without it.
    """
    text = piece or (lambda token: f"#{token}")
    settings = {
        "vocabulary": {
            "view": readout.settings.view,
            "tokens": readout.n_tokens,
            "mixtures": readout.mixtures,
            "directions": readout.draws,
            "frames": readout.frames,
            "seed": readout.settings.seed,
            "path": figures.DIRECT,
        }
    }

    def written() -> alt.TopLevelMixin:
        needed = np.unique(readout.top[..., :WRITTEN])
        return figures.written_tokens(readout, labels, {int(t): text(int(t)) for t in needed})

    maps = [
        Part(
            f"vocabulary_{measure}",
            partial(figures.vocabulary_map, readout, labels, measure),
            settings,
        )
        for measure in figures.MEASURES
    ]
    tokens = Part(
        "vocabulary_tokens",
        lambda: vocabulary_tables.tokens_csv(readout, labels, text),
        settings,
    )
    experts = Part(
        "vocabulary_experts",
        lambda: vocabulary_tables.listening_csv(readout, labels),
        settings,
    )
    return [Part("vocabulary_written", written, settings), *maps, tokens, experts]
