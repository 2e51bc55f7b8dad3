"""Tokens that an expert took, where they stood; all text is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from lens.escaping import as_html
from lens.figures.token_grid import bare
from lens.many_prompts.run_words import Occurrence

STYLE = (
    "<style>ul.contexts{margin:0!important;padding:0!important;list-style:none;font-size:.9rem;"
    "line-height:1.5}.contexts li{margin:0 0 .3rem!important;padding:0;overflow-wrap:anywhere}"
    ".contexts mark{background:#E69F00;color:#000;border-radius:3px;padding:0 .2rem}"
    ".contexts small{opacity:.75;white-space:nowrap;margin-left:.4rem}</style>"
)


def contexts_html(found: Sequence[Occurrence], *, many_labels: bool) -> str:
    """Each token within its neighbours, a line each, with the kind of its text."""
    lines = []
    for one in found:
        blank = " " if one.piece.startswith("▁") else ""
        label = f"<small>{as_html(one.label)}</small>" if many_labels else ""
        lines.append(
            f"<li>…{as_html(running(one.before))}{blank}<mark>{as_html(bare(one.piece))}</mark>"
            f"{as_html(running(one.after))}…{label}</li>"
        )
    return f'{STYLE}<ul class="contexts">{"".join(lines)}</ul>'


def running(pieces: Sequence[str]) -> str:
    """Pieces as running text, line breaks visible."""
    return "".join(pieces).replace("▁", " ").replace("\n", "⏎")
