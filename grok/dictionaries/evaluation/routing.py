"""What routers do with a reconstruction in place of the stream.

Axes: L layers with a router, B tokens, E experts, K experts a token, M sites, D width. No JAX here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import log_softmax

from grok.dictionaries.training.routers import router_columns
from grok.dictionaries.training.source import EXPERTS, Values
from grok.dictionaries.training.windows import evenly
from grok.interventions.sites import HookPoint

MARGIN_BINS = 4  # of tokens by how close their route was to another one
FITTED_TOKENS = 4096


@dataclass
class Routes:
    """Sums over tokens of two routings of the same text, float64.

    Attributes:
        n: tokens.
        same_set, same_first: tokens with the same experts, the same first expert, by layer [L].
        kl: of the router's softmax, plain to other [L].
        error, spread: squares of canonical router logits' change, and of the logits [L].
        mean: sums of canonical logits [L, E].
        margins, kept: for each token and layer the plain run's margin and whether the experts are
            the same, [L, tokens] in parts.
    """

    n: int = 0
    same_set: Any = 0
    same_first: Any = 0
    kl: Any = 0.0
    error: Any = 0.0
    spread: Any = 0.0
    mean: Any = 0.0
    margins: list[np.ndarray] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)

    def add(self, plain: np.ndarray, other: np.ndarray, experts: Sequence[np.ndarray]) -> None:
        """Adds tokens.

        Args:
            plain, other: router logits [L, B, E].
            experts: those that were chosen in both, [L, B, K].
        """
        z, own = plain.astype(np.float64), other.astype(np.float64)
        self.n += z.shape[1]
        first, second = experts
        same = (np.sort(first, -1) == np.sort(second, -1)).all(-1)  # [L, B]
        self.same_set = self.same_set + same.sum(1)
        self.same_first = self.same_first + (first[..., 0] == second[..., 0]).sum(1)
        a, b = log_softmax(z, axis=-1), log_softmax(own, axis=-1)
        self.kl = self.kl + (np.exp(a) * (a - b)).sum((1, 2))
        z, own = (one - one.mean(-1, keepdims=True) for one in (z, own))
        self.error = self.error + np.square(z - own).sum((1, 2))
        self.spread = self.spread + np.square(z).sum((1, 2))
        self.mean = self.mean + z.sum(1)
        k = first.shape[-1]
        ordered = np.sort(z, axis=-1)[..., ::-1]
        if k < z.shape[-1]:
            self.margins.append(ordered[..., k - 1] - ordered[..., k])
            self.kept.append(same)

    def numbers(self) -> dict[str, Any]:
        """The measures, by layer [L]."""
        variance = self.spread - np.square(self.mean).sum(-1) / self.n
        return {
            "same_set": (self.same_set / self.n).tolist(),
            "same_first": (self.same_first / self.n).tolist(),
            "route_kl": (self.kl / self.n).tolist(),
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


class Routers:
    """Routers as functions of the stream before their norm, fitted from a run's own values.

    Attributes:
        points: router logits and choices of each layer.
    """

    def __init__(self, values: Values, lengths: np.ndarray, layers: Sequence[int]) -> None:
        n = max(1, FITTED_TOKENS // int(lengths.max()))
        some = evenly(len(lengths), n).tolist()
        self._columns = router_columns(values, some, lengths, layers)
        self._layers = layers
        self._factors = self._scales(values, some[0], int(lengths[some[0]]))
        self.points = tuple(
            HookPoint(layer, site) for layer in layers for site in ("router.logits", EXPERTS)
        )

    def _scales(self, values: Values, window: int, length: int) -> list[float]:
        """The factor of each layer's columns, which come in units of the logits' spread."""
        pairs = [
            tuple(HookPoint(layer, site) for site in ("resid_mid", "router.logits"))
            for layer in self._layers
        ]
        points = [point for pair in pairs for point in pair]
        _, own = next(iter(values.of([window], points)))
        factors = []
        for (h, z), columns in zip(pairs, self._columns, strict=True):
            logits = np.asarray(own[z][:length], float)
            logits = logits - logits.mean(-1, keepdims=True)
            seen = _normed(np.asarray(own[h][:length], float)) @ columns
            factors.append(float((seen * logits).sum() / np.square(seen).sum()))
        return factors

    def logits(self, h: np.ndarray) -> np.ndarray:
        """Canonical router logits [L, B, E] of streams [L, B, D]."""
        seen = zip(h, self._columns, self._factors, strict=True)
        return np.stack([_normed(one.astype(float)) @ w * factor for one, w, factor in seen])


def _normed(h: np.ndarray) -> np.ndarray:
    return np.asarray(h / np.sqrt(np.square(h).mean(-1, keepdims=True) + 1e-30))


def largest(logits: np.ndarray, k: int) -> np.ndarray:
    """The k experts with the largest logits, the largest first, [..., K]."""
    return np.argsort(-logits, axis=-1, kind="stable")[..., :k]
