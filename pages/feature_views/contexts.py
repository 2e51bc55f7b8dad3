"""Places where a feature is active, each token as dark as the feature is strong; all escaped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lens.escaping import as_html
from lens.features.card import Context
from lens.words import fixed, significant

STYLE = (
    "<style>ul.feature-contexts{margin:0!important;padding:0!important;list-style:none;"
    "font-size:.92rem;line-height:1.65}.feature-contexts li{margin:0 0 .45rem!important;padding:0;"
    "overflow-wrap:anywhere}.feature-contexts span{border-radius:3px;padding:.08rem 0}"
    ".feature-contexts b{border-bottom:2px solid #E07B00;font-weight:600}"
    ".feature-contexts small{opacity:.75;white-space:nowrap;margin-left:.5rem}</style>"
)


def html(found: Sequence[Context], largest: float) -> str:
    """Each context in a line, with the kind of its text.

    Args:
        found: the contexts.
        largest: strength that is drawn darkest.
    """
    return f'{STYLE}<ul class="feature-contexts">{"".join(_line(c, largest) for c in found)}</ul>'


def _line(context: Context, largest: float) -> str:
    text = _coloured(context.pieces, context.values, largest, context.mark)
    held = "" if context.held_out else " · trained on"
    return f"<li>…{text}…<small>{as_html(context.label)}{held}</small></li>"


def text_html(pieces: Sequence[str], values: np.ndarray, largest: float) -> str:
    """A whole text, each token as dark as a feature is strong there.

    Args:
        pieces: of the tokens.
        values: strengths at them, 0 where not active.
        largest: strength that is drawn darkest.
    """
    text = _coloured(pieces, values, largest, None)
    return f'{STYLE}<ul class="feature-contexts"><li>{text}</li></ul>'


def _coloured(pieces: Sequence[str], values: np.ndarray, largest: float, mark: int | None) -> str:
    parts = []
    for i, (piece, value) in enumerate(zip(pieces, values, strict=True)):
        text = as_html(piece.replace("▁", " ").replace("\n", "⏎"))
        if i == mark:
            text = f"<b>{text}</b>"
        if value > 0:
            alpha = 0.08 + 0.34 * min(1.0, float(value) / max(largest, 1e-30))
            title = f"strength {significant(float(value))}"
            text = (
                f'<span style="background:rgba(230,159,0,{fixed(alpha, 2)})" title="{title}">'
                f"{text}</span>"
            )
        parts.append(text)
    return "".join(parts)
