"""What a model loses when a dictionary stands in it: loss, next tokens, and routes.

Axes: L layers with a router, B sequences, T tokens, V vocabulary, E experts, K experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from grok.engine.compiled import Forward
from grok.experiments.collecting import Passes
from grok.interventions.edits import Edits

if TYPE_CHECKING:
    from grok.runner.model import Model

MARGIN_BINS = 4  # of tokens by how close their route was to another one


@dataclass
class Sums:
    """Sums over tokens of two runs of the same text, float64.

    Attributes:
        n, n_next: tokens, and tokens that have a next one.
        loss, own_loss: cross entropy of the next token in nats, in the plain run and the other.
        kl: of the next token's distribution, plain to other.
        same_next: tokens whose likeliest next token is the same.
        same_set, same_first: tokens with the same experts, the same first expert, by layer [L].
        route_kl: of the router's softmax, plain to other [L].
        error, spread: squares of canonical router logits' change, and of the logits [L].
        mean: sums of canonical logits [L, E].
        margins, kept: for each token and layer the plain run's margin and whether the experts are
            the same, [L, tokens] in parts.
    """

    n: int = 0
    n_next: int = 0
    loss: float = 0.0
    own_loss: float = 0.0
    kl: float = 0.0
    same_next: int = 0
    same_set: Any = 0
    same_first: Any = 0
    route_kl: Any = 0.0
    error: Any = 0.0
    spread: Any = 0.0
    mean: Any = 0.0
    margins: list[np.ndarray] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)

    def add(self, tokens: np.ndarray, plain: Forward, other: Forward, row: int) -> None:
        """Adds one sequence [T] of a batch."""
        t = len(tokens)
        a, b = (log_softmax(run.logits[row, :t].astype(np.float64), axis=-1)
                for run in (plain, other))  # fmt: skip
        following = np.arange(t - 1), tokens[1:]
        self.n, self.n_next = self.n + t, self.n_next + t - 1
        self.loss -= float(a[following].sum())
        self.own_loss -= float(b[following].sum())
        self.kl += float((np.exp(a) * (a - b)).sum())
        self.same_next += int((a.argmax(-1) == b.argmax(-1)).sum())
        self._add_routes(plain, other, row, t)

    def _add_routes(self, plain: Forward, other: Forward, row: int, t: int) -> None:
        z, own = (run.router_logits[:, row, :t].astype(np.float64) for run in (plain, other))
        experts, chosen = (run.experts[:, row, :t] for run in (plain, other))
        same = (np.sort(experts, -1) == np.sort(chosen, -1)).all(-1)  # [L, T]
        self.same_set = self.same_set + same.sum(1)
        self.same_first = self.same_first + (experts[..., 0] == chosen[..., 0]).sum(1)
        a, b = log_softmax(z, axis=-1), log_softmax(own, axis=-1)
        self.route_kl = self.route_kl + (np.exp(a) * (a - b)).sum((1, 2))
        z, own = (one - one.mean(-1, keepdims=True) for one in (z, own))
        self.error = self.error + np.square(z - own).sum((1, 2))
        self.spread = self.spread + np.square(z).sum((1, 2))
        self.mean = self.mean + z.sum(1)
        k = experts.shape[-1]
        ordered = np.sort(z, axis=-1)[..., ::-1]
        if k < z.shape[-1]:
            self.margins.append(ordered[..., k - 1] - ordered[..., k])
            self.kept.append(same)

    def numbers(self) -> dict[str, Any]:
        """The measures; those of routes by layer [L]."""
        variance = self.spread - np.square(self.mean).sum(-1) / self.n
        return {
            "tokens": self.n,
            "ce": self.loss / self.n_next,
            "ce_changed": self.own_loss / self.n_next,
            "delta_ce": (self.own_loss - self.loss) / self.n_next,
            "kl": self.kl / self.n,
            "same_next": self.same_next / self.n,
            "same_set": (self.same_set / self.n).tolist(),
            "same_first": (self.same_first / self.n).tolist(),
            "route_kl": (self.route_kl / self.n).tolist(),
            "router_ev": (1 - self.error / np.maximum(variance, 1e-30)).tolist(),
            "flips_by_margin": self._flips(),
        }

    def _flips(self) -> list[list[float]]:
        """Share of changed routes in each quarter of the margins, the closest first, by layer."""
        if not self.margins:
            return []
        margins, kept = np.concatenate(self.margins, 1), np.concatenate(self.kept, 1)
        order = np.argsort(margins, axis=1, kind="stable")
        sorted_ = np.take_along_axis(~kept, order, axis=1)
        return [[float(part.mean()) for part in np.array_split(one, MARGIN_BINS)]
                for one in sorted_]  # fmt: skip


def compared(model: Model, windows: Sequence[np.ndarray], edits: Sequence[Edits]) -> list[Sums]:
    """Sums of runs with each of the edits beside a plain one.

    Args:
        model: on its devices, or streamed.
        windows: token ids [T] of each sequence.
        edits: one run each.
    """
    plain = Passes(model, windows, (), candidates=1)
    others = [Passes(model, windows, (), own, candidates=1) for own in edits]
    sums = [Sums() for _ in edits]
    for together in plain.together(range(len(windows))):
        first = plain.run(together)
        for own, passes in zip(sums, others, strict=True):
            for chosen, a, b in zip(together, first, passes.run(together), strict=True):
                for row, window in enumerate(dict.fromkeys(chosen)):
                    own.add(windows[window], a, b, row)
    return sums
