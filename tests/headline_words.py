"""What a headline must not have: it is read by people who meet the page for the first time."""

from __future__ import annotations

import re

from streamlit.testing.v1 import AppTest

from lens.glossary import unmarked

MOST_WORDS = 25
SYMBOLS = re.compile(r"[=<>≤≥±√σΔ‖²α-ωΑ-Ω]|\bp \d|\bp-value|\bq \d|\bnan\b|\bCKA\b")


def faults(headline: str) -> list[str]:
    """What is wrong with a headline; nothing where it is plain."""
    found = [f"symbol {symbol!r}" for symbol in SYMBOLS.findall(headline)]
    words = len(headline.split())
    if not words:
        found.append("no words")
    if words > MOST_WORDS:
        found.append(f"{words} words")
    return found


def told(app: AppTest) -> str:
    """The first line of a page, and the numbers behind it; the line must be plain."""
    headline = unmarked(app.subheader[0].value)
    assert not faults(headline), headline
    popovers = [block for block in app.get("popover") if block.proto.popover.label == "Numbers"]
    behind = [element.value for block in popovers for element in block.markdown]
    return unmarked(" ".join([headline, *behind]))
