"""Features that are active on one text, by how unusual that is.

A feature that is active at a third of all tokens is active in every text. So the tokens of a text
at which a feature is active stand beside its rate on the database's own text, by the log likelihood
ratio of T. Dunning, "Accurate methods for the statistics of surprise and coincidence" (1993), known
as keyness where words of a text are compared with those of a corpus.

Axes: token, feature (of a group), active (features that are active at any token), entry (a feature
at a token where it is active).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError


def keyness(
    n: Int[np.ndarray, " active"], tokens: int, rates: Float[np.ndarray, " active"]
) -> Float[np.ndarray, " active"]:
    """Nats by which a text's own rate tells n active tokens better than the usual rate.

    tokens · KL(n / tokens ‖ rate), and 0 where a feature is not active oftener than usual. Tokens
    count as independent; neighbours are alike, so it puts features into an order and is no test.

    Args:
        n: tokens at which each is active.
        tokens: of the text.
        rates: usual shares of tokens, above 0 and below 1.
    """
    share = np.asarray(n, np.float64) / max(tokens, 1)
    rates = np.asarray(rates, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - rates)), 0.0)
        found = tokens * (share * np.log(share / rates) + off)
    return np.where(share > rates, found, 0.0)


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """The features that are active on a text.

    Attributes:
        tokens: that were counted: without those at the start that the dictionary does not know.
        group, feature: of each feature that is active at any of them.
        n: tokens at which it is active; expected: as many by its usual rate.
        largest: strength where it is strongest; at: that token's place in the text.
        unusual: `keyness`, in nats.
        entry: row of a feature at a token; token: its place; value: strength there.
        length: tokens of the text.
    """

    tokens: int
    group: Int[np.ndarray, " active"]
    feature: Int[np.ndarray, " active"]
    n: Int[np.ndarray, " active"]
    expected: Float[np.ndarray, " active"]
    largest: Float[np.ndarray, " active"]
    at: Int[np.ndarray, " active"]
    unusual: Float[np.ndarray, " active"]
    entry: Int[np.ndarray, " entry"]
    token: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]
    length: int

    @property
    def most_unusual(self) -> float:
        """The largest keyness, in nats; 0 where nothing is active."""
        return float(self.unusual.max(initial=0.0))

    def row(self, group: int, feature: int) -> int | None:
        """Where a feature stands among those that are active, if it is."""
        found = np.flatnonzero((self.group == group) & (self.feature == feature))
        return int(found[0]) if len(found) else None

    def strengths(self, group: int, feature: int) -> Float[np.ndarray, " token"]:
        """Strength of a feature at each token of the text, 0 where it is not active."""
        values, row = np.zeros(self.length, np.float32), self.row(group, feature)
        if row is not None:
            own = self.entry == row
            values[self.token[own]] = self.value[own]
        return values

    def at_token(self, token: int) -> Float[np.ndarray, " active"]:
        """Strength of each active feature at one token."""
        values, own = np.zeros(len(self.n), np.float32), self.token == token
        values[self.entry[own]] = self.value[own]
        return values


def text_features(
    strengths: Sequence[Float[np.ndarray, "token feature"]],
    rates: Float[np.ndarray, "group feature"],
    *,
    usual_tokens: int,
    skipped: int = 0,
) -> TextFeatures:
    """The features that are active on a text.

    Args:
        strengths: of each group.
        rates: usual share of tokens of each feature.
        usual_tokens: tokens that the rates are of; a feature that was never active on them counts
            as active at half a token.
        skipped: tokens at the start that the dictionary was not trained on; they are not counted.

    Raises:
        LensError: the rates are of another dictionary.
    """
    if rates.shape != (len(strengths), *strengths[0].shape[1:]):
        raise LensError(
            f"The database has rates of shape {rates.shape}, the dictionary {len(strengths)} "
            f"groups of {strengths[0].shape[1]:,} features: they do not belong together."
        )
    length = len(strengths[0])
    places = [np.nonzero(one[skipped:]) for one in strengths]
    token = np.concatenate([at for at, _ in places])
    width = rates.shape[1]
    ids = np.concatenate([g * width + feature for g, (_, feature) in enumerate(places)])
    value = np.concatenate(
        [one[skipped:][at] for one, at in zip(strengths, places, strict=True)]
    ).astype(np.float32)
    active, entry, n = np.unique(ids, return_inverse=True, return_counts=True)
    order = np.lexsort((-value, entry))  # the strongest entry of each feature first
    first = order[np.searchsorted(entry[order], np.arange(len(active)))]
    floor = 0.5 / usual_tokens
    usual = np.clip(rates.ravel()[active].astype(np.float64), floor, 1 - floor)
    tokens = max(length - skipped, 0)
    return TextFeatures(
        tokens=tokens,
        group=active // width,
        feature=active % width,
        n=n,
        expected=usual * tokens,
        largest=value[first],
        at=token[first] + skipped,
        unusual=keyness(n, tokens, usual),
        entry=entry,
        token=token + skipped,
        value=value,
        length=length,
    )


@dataclass(frozen=True, eq=False)
class Beside:
    """A text's features beside stretches of the database's own text, each as long.

    Attributes:
        stretches: how many.
        as_often: of each feature of the text, stretches in which it is active at least as often.
        most_unusual: keyness of the most unusual feature of each stretch, in nats.
    """

    stretches: int
    as_often: Int[np.ndarray, " active"]
    most_unusual: Float[np.ndarray, " stretch"]


def beside(text: TextFeatures, others: Sequence[TextFeatures]) -> Beside:
    """A text's features beside those of stretches as long.

    Neighbouring tokens are alike in them too, so a feature that stays on for a whole passage does
    not look unusual here, as it does by its rate alone.
    """
    as_often = np.zeros(len(text.n), np.int64)
    width = 1 + max([int(one.feature.max(initial=0)) for one in (text, *others)])
    ids = text.group * width + text.feature
    for one in others:
        own = one.group * width + one.feature
        at = np.searchsorted(own, ids).clip(max=max(len(own) - 1, 0))
        if len(own):
            as_often += (own[at] == ids) & (one.n[at] >= text.n)
    return Beside(len(others), as_often, np.array([one.most_unusual for one in others]))
