"""What a model loses when something stands in it: loss, next tokens, and routes.

Axes: L layers with a router, B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from grok.dictionaries.evaluation.routing import Routes
from grok.engine.compiled import Forward
from grok.experiments.collecting import Passes
from grok.interventions.edits import Edits
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model


@dataclass
class Sums:
    """Sums over tokens of two runs of the same text, float64.

    Attributes:
        n, n_next: tokens, and tokens that have a next one.
        loss, own_loss: cross entropy of the next token in nats, in the plain run and the other.
        kl: of the next token's distribution, plain to other.
        same_next: tokens whose likeliest next token is the same.
        largest: change of any logit.
        routes: of the two runs.
    """

    n: int = 0
    n_next: int = 0
    loss: float = 0.0
    own_loss: float = 0.0
    kl: float = 0.0
    same_next: int = 0
    largest: float = 0.0
    routes: Routes = field(default_factory=Routes)

    def add(self, tokens: np.ndarray, plain: Forward, other: Forward, row: int) -> None:
        """Adds one sequence [T] of a batch."""
        t = len(tokens)
        logits, own = (run.logits[row, :t].astype(np.float64) for run in (plain, other))
        a, b = (log_softmax(one, axis=-1) for one in (logits, own))
        following = np.arange(t - 1), tokens[1:]
        self.n, self.n_next = self.n + t, self.n_next + t - 1
        self.loss -= float(a[following].sum())
        self.own_loss -= float(b[following].sum())
        self.kl += float((np.exp(a) * (a - b)).sum())
        self.same_next += int((a.argmax(-1) == b.argmax(-1)).sum())
        self.largest = max(self.largest, float(np.abs(logits - own).max()))
        z, other_z = (run.router_logits[:, row, :t] for run in (plain, other))
        self.routes.add(z, other_z, [run.experts[:, row, :t] for run in (plain, other)])

    def numbers(self) -> dict[str, Any]:
        """The measures; those of routes by layer [L]."""
        return {
            "tokens": self.n,
            "ce": self.loss / self.n_next,
            "ce_changed": self.own_loss / self.n_next,
            "delta_ce": (self.own_loss - self.loss) / self.n_next,
            "kl": self.kl / self.n,
            "same_next": self.same_next / self.n,
            "largest_logit_change": self.largest,
            **self.routes.numbers(),
        }


@dataclass(frozen=True)
class Plain:
    """A batch of sequences as the plain run had it.

    Attributes:
        windows: index of each sequence [B]; the last may be repeated to fill the batch.
        padded: T of the batch.
        kept: values of the asked-for points [B, T, ...].
    """

    windows: Sequence[int]
    padded: int
    kept: Mapping[HookPoint, np.ndarray]


Changed = Edits | Callable[[Plain], Edits]
"""Edits of a run, or what makes those of a batch from its plain run."""


def compared(
    model: Model,
    windows: Sequence[np.ndarray],
    runs: Mapping[str, Changed],
    points: Sequence[HookPoint] = (),
) -> dict[str, Sums]:
    """Sums of changed runs beside a plain one, by name.

    Args:
        model: on its devices, or streamed.
        windows: token ids [T] of each sequence.
        runs: the changes.
        points: whose plain values the changes are made from.
    """
    plain = Passes(model, windows, points, candidates=1)
    sums = {name: Sums() for name in runs}
    for together in plain.together(range(len(windows))):
        first = plain.run(together)
        kept = [
            Plain(chosen, own.logits.shape[1], own.kept)
            for chosen, own in zip(together, first, strict=True)
        ]
        for name, change in runs.items():
            if isinstance(change, Edits):
                found = Passes(model, windows, (), change, candidates=1).run(together)
            else:
                found = [
                    Passes(model, windows, (), change(one), candidates=1).run([one.windows])[0]
                    for one in kept
                ]
            for chosen, a, b in zip(together, first, found, strict=True):
                for row, window in enumerate(dict.fromkeys(chosen)):
                    sums[name].add(windows[window], a, b, row)
    return sums
