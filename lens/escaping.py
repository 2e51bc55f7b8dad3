"""Words from outside, such that they are shown and never do anything.

File names, sources, labels, pieces of tokens, prompts, names of runs, notes, values of an address
and errors that hold any of these go through one of these functions, whichever fits the place.
"""

from __future__ import annotations

import html
import re

# Controls, and what turns the direction of the text around it or hides in it.
UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
SPACES = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
# Addresses, icons, emoji and arrows are looked for once Markdown's own escapes are gone, so that
# no backslash keeps them away; a mark without width or meaning inside them does.
JOINER = "\u2060"
BROKEN = re.compile(r"[:@](?=\S)|www(?=\.)|(?:^|(?<=\s))[<>~-](?=[=>-]+(?:\s|$))", re.IGNORECASE)
# An underscore between letters or digits emphasizes nothing.
SPECIAL = re.compile(r"[\\`*\[\]<|$~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")
AT_LINE_START = re.compile(r"^(\s*\d*)([-+=.)#](?=[-=#\s]|$)|>)")


def plain(words: str, *, keep_lines: bool = False) -> str:
    """Words with what is not seen shown as "�", in one line unless the lines are kept.

    For places that know no markup.
    """
    if keep_lines:
        return "\n".join(plain(line) for line in words.split("\n"))
    return UNSEEN.sub("\ufffd", SPACES.sub(" ", words))


def as_markdown(words: str) -> str:
    """Words as Markdown that shows them as they are: nothing bold, no link, formula, icon, HTML."""
    line = BROKEN.sub(lambda found: found[0] + JOINER, plain(words))
    return AT_LINE_START.sub(r"\1\\\2", SPECIAL.sub(r"\\\g<0>", line))


def as_html(words: str, *, keep_lines: bool = False) -> str:
    """Words as HTML that shows them as they are, between tags and in quoted attributes."""
    return html.escape(plain(words, keep_lines=keep_lines))
