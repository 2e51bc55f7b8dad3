"""What a model's routers give and what its experts are chosen by, in words.

Families differ. The values over all experts are probabilities of a softmax, or each expert's own
score, which need not sum to 1. Chosen are the experts of the largest logits, probabilities or
scores, with a correction where the family has one. Gates are those values of the chosen, or made of
them. All of it is read off a trace: no family is named here.

Axes: layer (L), token (T), expert (E).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lens.errors import LensError

CORRECTED = "corrected score"


class Deciding(Protocol):
    """What decided the choice."""

    @property
    def router_logits(self) -> np.ndarray: ...
    @property
    def choice_values(self) -> np.ndarray | None: ...


class Scored(Deciding, Protocol):
    """What a trace says of the choice."""

    @property
    def router_probs(self) -> np.ndarray: ...
    @property
    def score(self) -> str: ...
    @property
    def plain_gates(self) -> bool: ...


@dataclass(frozen=True)
class ChosenBy:
    """The words for one model's values.

    Attributes:
        value: an expert's of all, "probability" or "score".
        unit: of what the chosen are the largest of, and so of margins: "logits", "probability",
            "score" or "corrected score".
        plain_gates: whether gates are the values of the chosen, and nothing else.
    """

    value: str = "probability"
    unit: str = "logits"
    plain_gates: bool = True

    @property
    def axis(self) -> str:
        """Title of an axis or a column of all experts' values."""
        kind = "gate" if self.plain_gates else "router"
        return f"{kind} (probability)" if self.value == "probability" else "score (sigmoid)"

    def margin(self, number: str) -> str:
        """A margin with its unit: "0.120 logits", "0.120 of corrected score"."""
        return f"{number} logits" if self.unit == "logits" else f"{number} of {self.unit}"

    def quantity(self, what: str) -> str:
        """The name under which figures know a quantity of this model.

        Args:
            what: "margin", "lead", "entropy", "top1_prob" (the largest gate, as applied),
                "top1_value" (the largest value of all experts), or another, which stays.
        """
        if what in ("margin", "lead") and self.unit != "logits":
            return f"{what}_score" if "score" in self.unit else f"{what}_prob"
        if what == "top1_prob" and not self.plain_gates:
            return "top1_gate"
        if what == "top1_value":
            return "top1_prob" if self.value == "probability" else "top1_score"
        if what == "entropy" and self.value == "score":
            return "entropy_score"
        return what

    def of(self, what: str) -> str:
        """The unit of a quantity."""
        known = {"margin": self.unit, "lead": self.unit, "entropy": "nats"}
        return known.get(what, self.value)

    @property
    def said(self) -> str:
        """What a reader of the values has to know; empty where they are gates as they are."""
        if self.value == "probability" and self.plain_gates and self.unit == "logits":
            return ""
        all_values = (
            "Bars are the router's probabilities, which sum to 1"
            if self.value == "probability"
            else "Bars are scores, each expert's own: they do not sum to 1"
        )
        by = {
            "logits": "the logit",
            "probability": "the probability, within the token's groups",
            CORRECTED: "the score and a correction, marked by a line",
        }.get(self.unit, f"the {self.unit}")
        gates = "" if self.plain_gates else " Gates are made of the chosen ones' alone."
        return f"{all_values}. Experts are chosen by {by}.{gates}"


def chosen_by(trace: Scored) -> ChosenBy:
    """What a trace's experts were chosen by."""
    value = "probability" if trace.score == "softmax" else "score"
    chosen = trace.choice_values
    unit = "logits"
    if chosen is not None and not _same(chosen, trace.router_logits):
        unit = value if _same(chosen, trace.router_probs) or value != "score" else CORRECTED
    return ChosenBy(value, unit, bool(trace.plain_gates))


def _same(values: np.ndarray, others: np.ndarray) -> bool:
    """Whether two arrays are the same wherever an expert can be chosen."""
    there = np.isfinite(values)
    return np.array_equal(values[there], others[there])


def deciding_logits(trace: Deciding, what: str) -> np.ndarray:
    """Router logits that the experts are chosen by [L, T, E].

    Args:
        what: is asked for, to begin the message.

    Raises:
        LensError: the experts are chosen by something else.
    """
    if trace.choice_values is not None and not _same(trace.choice_values, trace.router_logits):
        raise LensError(
            f"{what}: this model chooses its experts by other values than their logits, so normal "
            "logits say nothing of its choices, and nothing is compared with them here."
        )
    return trace.router_logits


def nearly_one(total: np.ndarray | float) -> np.ndarray:
    """Whether sums over all experts are 1 but for rounding, as those of probabilities are."""
    return np.abs(np.asarray(total, np.float64) - 1) < 1e-3


def shares(values: np.ndarray) -> np.ndarray:
    """Values of all experts as shares that sum to 1 [..., E]: probabilities stay as they are."""
    wide = np.asarray(values, np.float64)
    total = wide.sum(axis=-1, keepdims=True)
    return np.where(nearly_one(total), wide, wide / total)
