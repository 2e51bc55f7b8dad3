"""Blocks of neighbouring tokens that count as one observation, and what is drawn with them.

Axes: series (quantities of the same tokens), compared pair (P), block (B), draw.

Neighbours share their context, so compared tokens are no sample of independent ones. Blocks
that are longer than a context reaches are nearly independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.stats.draws import check_draws
from lens.stats.neighbour_correlation import correlation_time, neighbour_correlation
from lens.words import fixed

SHORTEST = 8
LONGEST = 512
# Blocks below which nothing is told; blocks by the rule are never longer than leaves as many.
FEWEST = 6
# A block by the rule is so many correlation times.
TIMES = 3


@dataclass(frozen=True)
class TokenBlocks:
    """Blocks of neighbouring tokens.

    Attributes:
        length: tokens in a block; the last may have fewer.
        count: blocks.
        correlation: of the values of neighbouring tokens, without bias; not a number where it
            cannot be told.
        time: tokens that say as much as one: (1 + r) / (1 − r) of that correlation r, or the
            sum of the correlations of tokens further apart where that is more.
        effective: blocks of 3 (1 + r) / (1 − r) tokens that there are; of a short text the time
            is too rough a number to count by.
    """

    length: int
    count: int
    correlation: float
    time: float
    effective: float

    @property
    def too_few(self) -> bool:
        """True where fewer than six blocks, or six such stretches, leave nothing to tell."""
        return min(self.count, self.effective) < FEWEST

    @property
    def text(self) -> str:
        """For people: the blocks, and the correlation that their length is taken from."""
        known = np.isfinite(self.correlation)
        why = f" (neighbours correlate by {fixed(self.correlation, 2)}, " if known else " ("
        why += f"{fixed(self.time, 1)} tokens count as one)"
        return f"{self.count} blocks of {self.length} neighbouring tokens{why}"


def token_blocks(values: Float[np.ndarray, "series pair"], block: int | None = None) -> TokenBlocks:
    """Blocks for a test of the mean of these values, as long as neighbours' likeness asks for.

    Three times as many tokens as count as one: (1 + r) / (1 − r), r the correlation of
    neighbouring values, or their correlation time where that is more, as where a topic is kept
    for long. At least 8, at most a sixth of the text, so that six blocks are left.

    Reading it: where `too_few` is true the text is too short for values so much alike, and
    p-values come out too small. Of 600 texts of 1,024 / 256 / 96 tokens, flipped signs at 5 %
    say yes, in percent, with values that follow their neighbour by r:

        r = 0        5 /  6 /  6     blocks of 8:  5 /  5 /  6
        r = 0.5      7 /  6 /  7                   7 /  7 /  8
        r = 0.8      6 /  6 /  6                  15 / 12 / 14
        r = 0.9      5 /  9 / 10                  25 / 26 / 26
        r = 0.95     8 / 10 / 17                  41 / 39 / 44
        a topic     15 / 20 / 30                  38 / 42 / 41

    (the topic: a quarter of the variance stays for 50 tokens). With the texts where `too_few`
    left out it is no more than 8 in the first five rows; a topic shows no such thing. A
    difference that drifts all along a text is not told from one that stays (36 percent of 100
    texts of 192 tokens; loads 54).

    Args:
        values: what is averaged, along the text.
        block: tokens in a block; by default as above.

    Raises:
        LensError: the block length is below 1 or above 512.
    """
    n = values.shape[1]
    correlation = neighbour_correlation(values)
    r = max(np.nan_to_num(correlation), 0.0)
    near = (1 + r) / (1 - r)
    time = max(near, correlation_time(np.nan_to_num(values)))
    length = block
    if length is None:
        length = min(max(SHORTEST, min(round(TIMES * time), n // FEWEST)), LONGEST)
    count = int(blocks_of(n, length)[-1]) + 1 if n else 0
    return TokenBlocks(length, count, correlation, time, n / (TIMES * near))


def blocks_of(n: int, block: int) -> Int[np.ndarray, " pair"]:
    """The block of each of n neighbouring pairs.

    Raises:
        LensError: the block length is below 1 or above 512.
    """
    if not 1 <= block <= LONGEST:
        raise LensError(f"Block: found {block} tokens; expected 1 to {LONGEST}.")
    return np.arange(n) // block


def block_sums(
    values: Float[np.ndarray, "*series pair"], block: int
) -> Float[np.ndarray, "*series block"]:
    """Sums over blocks of the last axis; what is not a number counts as nothing."""
    starts = np.flatnonzero(np.diff(blocks_of(values.shape[-1], block), prepend=-1))
    return np.add.reduceat(np.nan_to_num(values), starts, axis=-1)


def flipped_signs(
    n_blocks: int, draws: int, seed: int
) -> tuple[Float[np.ndarray, "draw block"], bool]:
    """Signs for each block, and whether these are all there are besides the observed ones.

    Few blocks have few patterns: where no more than `draws`, each is taken once, and p-values
    are exact.
    """
    check_draws(draws)
    if 2**n_blocks - 1 <= draws:
        patterns = np.arange(1, 2**n_blocks)[:, None] >> np.arange(n_blocks) & 1
        return 1.0 - 2.0 * patterns, True
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, n_blocks)), False


def block_orders(n: int, block: int, draws: int, seed: int) -> Int[np.ndarray, "draw pair"]:
    """Orders of n neighbours: turned round by a random number of places, in shuffled blocks."""
    rng = np.random.default_rng(seed)
    blocks = blocks_of(n, block)
    place = rng.random((draws, int(blocks[-1]) + 1)) if n else np.empty((draws, 0))
    turned = (np.arange(n) + rng.integers(0, max(n, 1), size=(draws, 1))) % max(n, 1)
    by_block = np.argsort(place[:, blocks] if n else place, axis=1, kind="stable")
    return np.take_along_axis(turned, by_block, axis=1)
