"""A question asked of a router set, its numbers, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.finding import Finding, verdict_of
from lens.words import p_value_text, significant

DRAWS = 999
SEED = 0
LEVEL = 0.01


@dataclass(frozen=True)
class Question:
    """A question that can be asked of a router set.

    Attributes:
        id: its name in code and links.
        text: as people ask it.
        effect_name: the number that answers it.
    """

    id: str
    text: str
    effect_name: str


@dataclass(frozen=True)
class Answer:
    """One question, answered from the data.

    Attributes:
        id: of the question: "adjacent", "depth", "same_expert" or "breadth".
        question: as asked.
        plain: the answer in a short sentence, with one number at most.
        sentence: the answer in words, with effect, null and p-value.
        effect: the number that the answer rests on; not a number when there are
            too few layers to ask.
        effect_name: what it is.
        null_mean, null_low, null_high: mean, 2.5 % and 97.5 % quantile by chance.
        p_value: probability that chance gives so large an effect.
        p_adjusted: the same for the four questions together (Holm).
        draws, seed: of the null.
        beats: what a finding is more than, or would be.
    """

    id: str
    question: str
    plain: str
    sentence: str
    effect: float
    effect_name: str
    null_mean: float
    null_low: float
    null_high: float
    p_value: float
    p_adjusted: float
    draws: int
    seed: int
    beats: str

    @property
    def distinguishable(self) -> bool:
        """True for a finding: p below 1 % with Holm's correction for four questions."""
        return self.p_adjusted < LEVEL

    @property
    def finding(self) -> Finding:
        """The answer as pages and reports say it."""
        return Finding(
            sentence=self.plain,
            verdict=verdict_of(self.p_adjusted, self.distinguishable),
            detail=self.sentence,
            effect=self.effect,
            effect_name=self.effect_name,
            null_mean=self.null_mean,
            null_low=self.null_low,
            null_high=self.null_high,
            beats=self.beats,
            p_value=self.p_adjusted,
            draws=self.draws,
            seed=self.seed,
        )


Words = Callable[[bool, str], str]
"""The sentence in full, given whether it is a finding and its p-values in words."""
Plain = Callable[[bool], str]
"""The short sentence, given whether it is a finding."""


@dataclass(frozen=True)
class Asked:
    """A question with its numbers, before the four are judged together.

    Attributes:
        question: which it is.
        effect: the number that answers it.
        null: the same in each draw.
        p_value: of the effect.
        words, plain: the answer in full and in short.
        beats: what a finding is more than, or would be.
        counted: whether the p-value is a share of the draws, which has a least value; else it
            comes from a tail fitted to them.
    """

    question: Question
    effect: float
    null: Float[np.ndarray, " draw"]
    p_value: float
    words: Words
    plain: Plain
    beats: str
    counted: bool = True

    def together(self, p_adjusted: float, draws: int, seed: int) -> Answer:
        """The answer, judged together with those to the other three questions."""
        made = self._made
        least = made is not None and self.p_value <= 1 / (1 + made)
        of_four = p_value_text(p_adjusted, bound=least)
        return self._answer(p_adjusted, f"for four questions {of_four}", draws, seed)

    def alone(self, seed: int) -> Finding:
        """The answer to this question by itself, not judged together with the other three."""
        return self._answer(self.p_value, "for this question alone", len(self.null), seed).finding

    @property
    def _made(self) -> int | None:
        """Draws that the p-value counts; None where it comes from a fitted tail."""
        return len(self.null) if self.counted else None

    def _answer(self, p_adjusted: float, judged: str, draws: int, seed: int) -> Answer:
        low, high = np.quantile(self.null, [0.025, 0.975])
        real = p_adjusted < LEVEL
        p_text = f"p {p_value_text(self.p_value, self._made)} ({judged})"
        return Answer(
            id=self.question.id,
            question=self.question.text,
            plain=self.plain(real),
            sentence=self.words(real, p_text),
            effect=self.effect,
            effect_name=self.question.effect_name,
            null_mean=float(self.null.mean()),
            null_low=float(low),
            null_high=float(high),
            p_value=self.p_value,
            p_adjusted=p_adjusted,
            draws=draws,
            seed=seed,
            beats=self.beats,
        )


def unasked(question: Question, sentence: str, short: str) -> Asked:
    nan = float("nan")
    none = np.full(1, nan)
    return Asked(question, nan, none, nan, lambda _real, _p: sentence, lambda _real: short, "")


def too_few(question: Question, found: int, needed: int) -> Asked:
    there = "there is 1" if found == 1 else f"there are {found}"
    sentence = f"Can't be asked here: it needs at least {needed} layers, and {there}."
    return unasked(question, sentence, sentence)


def band(null: Float[np.ndarray, " draw"]) -> str:
    return f"{middle(null)} in 95 % of {len(null)} draws"


def middle(null: Float[np.ndarray, " draw"]) -> str:
    low, high = np.quantile(null, [0.025, 0.975])
    return f"{significant(float(low))} to {significant(float(high))}"
