"""Plain rules for when a feature is active, and the words for them.

Axes: excerpt, token (of an excerpt), piece (of the vocabulary).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from lens.escaping import plain
from lens.features.explaining.excerpts import Excerpts

SPACE = "\u2581"  # what stands for a space before a word
MOST_NAMED = 12  # tokens of a set
NAMED, SECOND = 0.003, 0.02  # prices in F1: of a token that is named, of a second rule

# Shapes of pieces, by the words for them.
SHAPES = {
    "numbers": r"▁?\d+",
    "punctuation": r"▁?[^\w\s▁]+",
    "line breaks": r"▁?\n+",
    "spaces alone": r"▁+",
    "beginnings of words": r"▁[^\W\d]+",
    "middles and ends of words": r"[^\W\d▁]+",
    "capitals": r"▁?[A-ZÀ-ÖØ-Þ].*",
    "all capitals": r"▁?[A-ZÀ-ÖØ-Þ]{2,}",
    "single letters": r"▁?[^\W\d]",
    "letters with accents": r".*[à-öø-ÿ].*",
}


class Vocabulary:
    """Pieces of all tokens, and which have which shape."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = tuple(pieces)

    @cached_property
    def shapes(self) -> dict[str, Bool[np.ndarray, " piece"]]:
        """Pieces of each shape of `SHAPES`."""
        return {name: self.like(pattern) for name, pattern in SHAPES.items()}

    def like(self, pattern: str) -> Bool[np.ndarray, " piece"]:
        """Pieces that a pattern matches whole."""
        matches: Callable[[str], object] = re.compile(pattern).fullmatch
        return np.array([matches(piece) is not None for piece in self.pieces], bool)

    def said(self, token: int) -> str:
        """A token in quotation marks."""
        piece = self.pieces[token] if 0 <= token < len(self.pieces) else "?"
        return f"“{plain(piece.replace(SPACE, ' ').replace(chr(10), '↵'))}”"


@dataclass(frozen=True)
class Rule:
    """A rule that a token of an excerpt fulfils or not.

    Attributes:
        text: the rule in words, as the rest of "active at …".
        holds: the tokens of excerpts that fulfil it.
        price: of its length, in F1: of two rules that fit alike the shorter one is taken.
    """

    text: str
    holds: Callable[[Excerpts], np.ndarray]
    price: float = 0.0


def of_tokens(vocabulary: Vocabulary, tokens: Sequence[int]) -> Rule:
    """The token is one of a set."""
    own = np.array(sorted(tokens))
    named = ", ".join(vocabulary.said(token) for token in tokens)
    return Rule(named, lambda found: np.isin(found.ids, own), NAMED * len(own))


def after_tokens(vocabulary: Vocabulary, tokens: Sequence[int]) -> Rule:
    """The token before is one of a set."""
    own = np.array(sorted(tokens))
    named = ", ".join(vocabulary.said(token) for token in tokens)
    return Rule(f"what follows {named}", lambda found: np.isin(found.before, own), NAMED * len(own))


def of_shape(vocabulary: Vocabulary, name: str) -> Rule:
    """The piece has one of the known shapes."""
    return Rule(name, _of_pieces(vocabulary.shapes[name]))


def ending_in(vocabulary: Vocabulary, letters: str) -> Rule:
    """The piece ends in some letters."""
    own = vocabulary.like(f".*{re.escape(letters)}")
    return Rule(f"pieces that end in “{plain(letters)}”", _of_pieces(own))


def beginning_with(vocabulary: Vocabulary, letters: str) -> Rule:
    """The piece begins with some letters, after a space or not."""
    own = vocabulary.like(f"{SPACE}?{re.escape(letters)}.*")
    return Rule(f"pieces that begin with “{plain(letters)}”", _of_pieces(own))


def in_text(label: int, name: str) -> Rule:
    """The excerpt is of one text."""

    def holds(found: Excerpts) -> np.ndarray:
        return np.asarray((found.label == label)[:, None] & found.inside)

    return Rule(f"tokens of {plain(name)}", holds)


def among_first(most: int) -> Rule:
    """The token is one of the first of its window."""

    def holds(found: Excerpts) -> np.ndarray:
        place = found.position[:, None] + np.arange(found.ids.shape[1])
        return np.asarray((place < most) & found.inside)

    return Rule(f"the first {most} tokens of a text", holds)


def both(one: Rule, other: Rule) -> Rule:
    """Both rules hold."""
    return Rule(
        f"{one.text}, where also: {other.text}",
        lambda found: one.holds(found) & other.holds(found),
        one.price + other.price + SECOND,
    )


def _of_pieces(own: np.ndarray) -> Callable[[Excerpts], np.ndarray]:
    known = np.concatenate([own, [False]])  # −1 is no token

    def holds(found: Excerpts) -> np.ndarray:
        return np.asarray(known[np.minimum(found.ids, len(own))])

    return holds
