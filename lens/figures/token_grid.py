"""Tokens as they are drawn: their text made visible, the part that is drawn, and maps by layer.

Of a text too long to be drawn at once a window is shown. Columns of a map are tokens, or pairs
of an alignment; rows are layers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from lens.escaping import plain
from lens.figures import marks, theme

# Cells of a token map; each may carry a digit, which is a mark too.
MAX_CELLS = theme.MAX_MARKS // 2
WIDTH = 680
PIECE = 24  # characters of a piece that are shown


def visible(piece: str) -> str:
    """A token's piece with blanks and control characters made visible."""
    swaps = {"▁": "·", " ": "·", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    shown = "".join(swaps.get(c, c) for c in piece)
    shown = "".join("�" if unicodedata.category(c) == "Co" else c for c in plain(shown))
    return shown if len(shown) <= PIECE else shown[: PIECE - 1] + "…"


def bare(piece: str) -> str:
    """A token without the sign of the blank before it; blanks alone stay visible."""
    return visible(piece.removeprefix("▁") or piece)


def quoted(piece: str) -> str:
    """A token's piece in quotation marks, as it stands in titles and sentences."""
    return f"“{visible(piece)}”"


def token_names(pieces: Sequence[str]) -> list[str]:
    """A name of its own for each token: its position and its text."""
    return [f"{t} {visible(piece)}" for t, piece in enumerate(pieces)]


def ranked_names(pieces: Sequence[str]) -> list[str]:
    """A name of its own for each token of a ranking: its rank and its text."""
    return [f"{i + 1}  {visible(piece)}" for i, piece in enumerate(pieces)]


def token_window(
    n_tokens: int, n_layers: int, *, picked: int | None = None, start: int | None = None
) -> range:
    """The tokens that a map of all layers draws: all of them, or as many as stay quick.

    Args:
        n_tokens: of the text.
        n_layers: rows of the map.
        picked: a token that the window has to hold.
        start: first token, when the caller pages by hand.
    """
    width = min(n_tokens, max(1, MAX_CELLS // max(n_layers, 1)))
    first = 0
    if start is not None:
        first = start
    elif picked is not None and picked >= width:
        first = picked - width // 2
    first = int(np.clip(first, 0, n_tokens - width))
    return range(first, first + width)


def window_text(window: range, n_tokens: int) -> str:
    """A sentence that says which tokens are drawn; none where all are."""
    if len(window) == n_tokens:
        return ""
    return f"Tokens {window.start} to {window.stop - 1} of {n_tokens}."


def token_axis(limit: float = 110) -> alt.Axis:
    """An axis of upright token names, cut at `limit` pixels."""
    return marks.axis_labels(-90, labelLimit=limit)


def token_x(names: Sequence[str], title: str, limit: float = 110) -> alt.X:
    """Tokens across: field "x", with these names."""
    return alt.X("x:O", title=title, scale=alt.Scale(domain=list(names)), axis=token_axis(limit))


def token_step(count: int, low: float = 9) -> float:
    """Width of a token's column in pixels."""
    return theme.cell_step(count, WIDTH, low=low, high=30)


@dataclass(frozen=True)
class TokenGrid:
    """Columns, rows and cells of a map of tokens by layers.

    Attributes:
        names: of all columns.
        labels: of the layers.
        window: the columns that are drawn.
        field: name of a column's number in the data.
    """

    names: Sequence[str]
    labels: Sequence[str]
    window: range
    field: str = "token"

    @property
    def shown(self) -> list[str]:
        """Names of the columns that are drawn."""
        return [self.names[t] for t in self.window]

    @property
    def cells(self) -> marks.Pair:
        """Column and layer of every cell, layer by layer."""
        layer, offset = marks.grid((len(self.labels), len(self.window)))
        return offset + self.window.start, layer

    @property
    def height(self) -> float:
        """Height of a row in pixels."""
        return theme.cell_step(len(self.labels), 420, low=6, high=24)

    def columns(self, values: np.ndarray) -> dict[str, Any]:
        """Data of the cells, of `values` [layer, column]."""
        column, layer = self.cells
        return {
            self.field: column,
            "layer": layer,
            "x": np.asarray(self.names)[column],
            "y": np.asarray(self.labels)[layer],
            "value": values[layer, column],
        }

    def outline(
        self, base: alt.Chart, picked: tuple[int, int] | None, step: float
    ) -> list[alt.Chart]:
        """The outline of a cell, where it is drawn.

        Args:
            base: a chart with the positions of cells encoded.
            picked: the cell, as (column, layer).
            step: width of a column in pixels.
        """
        if picked is None or picked[0] not in self.window:
            return []
        at = {"x": [self.names[picked[0]]], "y": [self.labels[picked[1]]]}
        return marks.outlined(base, at, step)
