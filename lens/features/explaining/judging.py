"""How well an explanation tells contexts apart: detection and fuzzing.

- detection: is the feature active anywhere in this excerpt? Excerpts without it are random ones
  and hard ones, where a feature that is alike is active.
- fuzzing: is the marked token one at which it is active? Half of the marks are wrong: at another
  token of the same excerpt.

Both are balanced accuracies, the mean of the shares right among those with and those without:
chance is ½ however many there are of each.

Axes: excerpt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Int

from lens.features.explaining.excerpts import Excerpts

LEAST = 3  # excerpts of each sort


class Judge(Protocol):
    """Holds an explanation against excerpts, of which it sees the tokens and not the strengths."""

    def detect(self, excerpts: Excerpts) -> Bool[np.ndarray, " excerpt"]:
        """Whether the feature is active anywhere in each."""
        ...

    def confirm(
        self, excerpts: Excerpts, marks: Int[np.ndarray, " excerpt"]
    ) -> Bool[np.ndarray, " excerpt"]:
        """Whether it is active at the marked token of each."""
        ...


@dataclass(frozen=True)
class Proposal:
    """An explanation in words, with its judge."""

    text: str
    judge: Judge


class Explainer(Protocol):
    """Explains a feature from excerpts in which its strengths are seen.

    Attributes:
        name: of the explainer.
    """

    @property
    def name(self) -> str: ...

    def explain(self, excerpts: Excerpts) -> Proposal | None:
        """An explanation; None where there is none."""
        ...


@dataclass(frozen=True)
class Scores:
    """Balanced accuracies; not a number where there is too little to judge on.

    Attributes:
        detection: of detection; low, high: its 95 % interval.
        fuzzing: of fuzzing.
        contexts: excerpts that were judged.
    """

    detection: float
    low: float
    high: float
    fuzzing: float
    contexts: int


def judged(judge: Judge, excerpts: Excerpts, seed: int = 0) -> Scores:
    """The scores of an explanation on excerpts that its explainer has not seen."""
    there = np.asarray(excerpts.active.any(1))
    detection, low, high = balanced(judge.detect(excerpts), there)
    own = excerpts.at(there)
    rng = np.random.default_rng(seed)
    # A wrong mark is at a token that is not active; an excerpt that is active all over has none.
    chance = np.where(own.inside & ~own.active, rng.random(own.ids.shape), -1.0)
    wrong, known = chance.argmax(1), chance.max(1) >= 0
    right = np.where(own.active, own.values, -1.0).argmax(1)
    answers = np.concatenate(
        [judge.confirm(own, right), judge.confirm(own.at(known), wrong[known])]
    )
    truth = np.concatenate([np.ones(len(own), bool), np.zeros(int(known.sum()), bool)])
    fuzzing, _, _ = balanced(answers, truth)
    return Scores(detection, low, high, fuzzing, len(excerpts))


def balanced(
    answers: Bool[np.ndarray, " excerpt"], truth: Bool[np.ndarray, " excerpt"]
) -> tuple[float, float, float]:
    """Balanced accuracy with its 95 % interval.

    The interval adds two right and two wrong answers to each sort, so that few answers, all of
    them right, do not pass for certainty (Agresti and Coull, 1998).
    """
    sizes, right = _counts(answers, truth)
    if min(sizes) < LEAST:
        return float("nan"), float("nan"), float("nan")
    value = sum(r / n for r, n in zip(right, sizes, strict=True)) / 2
    shares = [((r + 2) / (n + 4), n + 4) for r, n in zip(right, sizes, strict=True)]
    middle = sum(p for p, _ in shares) / 2
    half = 1.96 * float(np.sqrt(sum(p * (1 - p) / n for p, n in shares))) / 2
    return value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half))


def _counts(answers: np.ndarray, truth: np.ndarray) -> tuple[Sequence[int], Sequence[int]]:
    sizes = [int(truth.sum()), int((~truth).sum())]
    return sizes, [int((answers & truth).sum()), int((~answers & ~truth).sum())]
