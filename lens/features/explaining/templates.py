"""Explanations without a language model: the rule among many that fits best.

Rules are sets of tokens, sets of tokens before, shapes and ends of pieces, texts, places, and two
of these together. The best is the one with the largest F1 over the tokens of some excerpts; how
good it is, is then judged on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lens.features.explaining.excerpts import Excerpts
from lens.features.explaining.judging import Proposal
from lens.features.explaining.predicates import (
    MOST_NAMED,
    SHAPES,
    SPACE,
    Rule,
    Vocabulary,
    after_tokens,
    among_first,
    beginning_with,
    both,
    ending_in,
    in_text,
    of_shape,
    of_tokens,
)

JOINED = 6  # rules that are tried together
FIRST = (2, 8)
AFFIXES = (3, 2)  # letters; of two that fit alike the longer one is taken


@dataclass(frozen=True)
class RuleJudge:
    """Judges by a rule."""

    rule: Rule

    def detect(self, excerpts: Excerpts) -> np.ndarray:
        """Whether the rule holds anywhere in each."""
        return np.asarray(self.rule.holds(excerpts).any(1))

    def confirm(self, excerpts: Excerpts, marks: np.ndarray) -> np.ndarray:
        """Whether it holds at the mark of each."""
        return np.asarray(self.rule.holds(excerpts)[np.arange(len(excerpts)), marks])


class TemplateExplainer:
    """Searches rules.

    Args:
        vocabulary: pieces of all tokens.
        labels: names of the texts.
    """

    name = "rules"

    def __init__(self, vocabulary: Vocabulary, labels: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._always = [of_shape(vocabulary, name) for name in SHAPES]
        self._always += [in_text(i, name) for i, name in enumerate(labels)]
        self._always += [among_first(most) for most in FIRST]
        self._affixes: dict[tuple[str, bool], Rule] = {}

    def explain(self, excerpts: Excerpts) -> Proposal | None:
        """The rule with the largest F1; None where the feature is nowhere active."""
        truth, inside = excerpts.active, excerpts.inside
        if not truth.any():
            return None
        rules = [*self._always, *self._own(excerpts)]
        held = [rule.holds(excerpts) & inside for rule in rules]
        fits = np.array(
            [_f1(one, truth) - rule.price for one, rule in zip(held, rules, strict=True)]
        )
        order = np.argsort(-fits, kind="stable")
        best, fit = rules[order[0]], fits[order[0]]
        few = order[:JOINED]
        for a, i in enumerate(few):
            for j in few[a + 1 :]:
                pair = both(rules[i], rules[j])
                own = _f1(held[i] & held[j], truth) - pair.price
                if own > fit:
                    best, fit = pair, own
        return Proposal(best.text, RuleJudge(best))

    def _own(self, excerpts: Excerpts) -> list[Rule]:
        """Rules that excerpts suggest."""
        vocabulary = self._vocabulary
        rules = []
        tokens = _best_set(excerpts.ids, excerpts)
        if tokens:
            rules.append(of_tokens(vocabulary, tokens))
        before = _best_set(excerpts.before, excerpts)
        if before:
            rules.append(after_tokens(vocabulary, before))
        own = excerpts.ids[excerpts.active]
        kinds, counts = np.unique(own, return_counts=True)
        for token in kinds[np.argsort(-counts, kind="stable")][:4].tolist():
            rules += self._affixed(vocabulary.pieces[token] if token < len(vocabulary.pieces)
                                   else "")  # fmt: skip
        return rules

    def _affixed(self, piece: str) -> list[Rule]:
        """Ends and beginnings of a piece as rules."""
        word = piece.lstrip(SPACE)
        rules = []
        for length in AFFIXES:
            if len(word) <= length or not word.isalpha():
                continue
            for letters, end in ((word[-length:], True), (word[:length], False)):
                if (letters, end) not in self._affixes:
                    make = ending_in if end else beginning_with
                    self._affixes[letters, end] = make(self._vocabulary, letters)
                rules.append(self._affixes[letters, end])
        return rules


def _f1(found: np.ndarray, truth: np.ndarray) -> float:
    hit, said = int((found & truth).sum()), int(found.sum()) + int(truth.sum())
    return 2 * hit / max(1, said)


def _best_set(ids: np.ndarray, excerpts: Excerpts) -> list[int]:
    """The set of ids with the largest F1: of sets that are named, those most often active.

    Ids are disjoint, so the best set holds those with the largest share of active tokens.
    """
    known = excerpts.inside & (ids >= 0)
    kinds, which = np.unique(ids[known], return_inverse=True)
    active = np.bincount(which, excerpts.active[known], minlength=len(kinds))
    total = np.bincount(which, minlength=len(kinds))
    order = np.lexsort((-active, -active / np.maximum(total, 1)))
    order = order[active[order] > 0][:MOST_NAMED]
    if not order.size:
        return []
    hit, said = np.cumsum(active[order]), np.cumsum(total[order])
    f1 = 2 * hit / (said + excerpts.active.sum())
    chosen = order[: int(f1.argmax()) + 1]
    return [int(one) for one in kinds[chosen[np.argsort(-active[chosen], kind="stable")]]]
