"""Orders of the tokens of a text that leave every token near its place.

Axes: token (T). A stretch is some dozens of neighbouring tokens of one text.

What stands close to each other shares its words and its topic, so that words go with experts
though neither settles the other. A null that keeps this turns the tokens of each stretch round
by themselves: what falls off its end comes in at its start. Neighbours stay neighbours, every
stretch keeps its words and its experts, and there are as many orders as the product of the
lengths, far more than places to turn a whole text to.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

STRETCH = 16
# A short text is cut into so many stretches, if they have as many tokens.
LEAST_STRETCHES = 4
LEAST_TOKENS = 8


def stretches(
    n_tokens: int, groups: Int[np.ndarray, " token"] | None = None
) -> Int[np.ndarray, " token"]:
    """The stretch of each token: equal parts of about 16 tokens, of short texts fewer.

    Args:
        n_tokens: in all.
        groups: number of the text of each token, in order; None for one text.
    """
    starts, lengths = runs(np.zeros(n_tokens, dtype=int) if groups is None else groups)
    parts = np.maximum(
        np.rint(lengths / STRETCH), np.minimum(LEAST_STRETCHES, lengths // LEAST_TOKENS)
    )
    parts = np.maximum(parts, 1).astype(int)
    place = np.arange(n_tokens) - np.repeat(starts, lengths)
    within = place * np.repeat(parts, lengths) // np.repeat(lengths, lengths)
    return within + np.repeat(np.cumsum(parts) - parts, lengths)


def turned(
    rng: np.random.Generator, groups: Int[np.ndarray, " token"]
) -> Int[np.ndarray, " token"]:
    """An order in which each group begins at a random token of it and ends before that.

    Args:
        rng: source of the order.
        groups: number of the group of each token; those of a group stand together.
    """
    starts, lengths = runs(groups)
    shift = np.repeat(rng.integers(0, lengths), lengths)
    begin, length = np.repeat(starts, lengths), np.repeat(lengths, lengths)
    return begin + (np.arange(len(groups)) - begin + shift) % length


def runs(
    groups: Int[np.ndarray, " token"],
) -> tuple[Int[np.ndarray, " run"], Int[np.ndarray, " run"]]:
    """First place and length of each run of equal numbers."""
    starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
    return starts, np.diff(np.append(starts, len(groups)))
