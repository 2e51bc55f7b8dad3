"""Words that would do something if any door took them for more than text."""

from __future__ import annotations

import re

MARK = "zq"
WORDS = (
    "[zq](https://zq.example) **zq** $zq$ :red[zq] :material/key: :smile: <b>zq</b> `zq` "
    "https://zq.example zq@zq.example www.zq.example \u202ezq\u2066 &#x202e; zq -> zq"
)
ESCAPED = re.compile(r"\\[!-/:-@\[-`{-~]")
# What would work, in Markdown of which the escaped characters are gone.
ALIVE = re.compile(
    r"\]\((?!#term-)|\*\*zq|\$zq|:red|:material/key|:smile|<b>|`zq|https?://zq|@zq|www\.zq|"
    r"[\u202e\u2066]|&#|\nzq| -> "
)


def alive(markdown: str) -> list[str]:
    """What of the words would do something in a piece of Markdown that holds them."""
    return ALIVE.findall(ESCAPED.sub("", markdown)) if MARK in markdown else []
