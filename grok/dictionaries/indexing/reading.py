"""Active features of parts of a text, with what routers did at the same tokens.

Axes: S sites read, L routed layers, B tokens of a part, D width, E experts, K experts a token,
G groups, F features of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from grok.dictionaries.indexing.plan import Text
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.inference import active
from grok.dictionaries.training.source import EXPERTS, Computed
from grok.dictionaries.training.windows import Windows
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

STREAM, ROUTER_LOGITS = "resid_mid", "router.logits"


class Fired(NamedTuple):
    """Active features of a group, token by token: row in the part, feature, strength [n]."""

    token: np.ndarray
    feature: np.ndarray
    value: np.ndarray


class Seen(NamedTuple):
    """The tokens of a part that count, and what was active at them.

    window, position, token, before, label: of each token [B]; `before` is the token before it,
    or -1. experts: [L, B, K]; logits: [L, B, E] of routers; scale: one over the root mean square
    of what each router's norm read [L, B]. fired: of each group.
    """

    window: np.ndarray
    position: np.ndarray
    token: np.ndarray
    before: np.ndarray
    label: np.ndarray
    experts: np.ndarray
    logits: np.ndarray
    scale: np.ndarray
    fired: list[Fired]


class Reader:
    """Reads parts of a text.

    Args:
        model: that the dictionary is for.
        dictionary: whose features are asked for.
        text: of the pass.
        rows: tokens of the longest part; all are padded to it, so one program does for all.
    """

    def __init__(self, model: Model, dictionary: Dictionary, text: Text, rows: int) -> None:
        config = model.config
        dictionary.check_model(model.sha256, config.d_model, config.n_layers, model.name)
        self._dictionary, self._text, self._rows = dictionary, text, rows
        self.skipped = dictionary.skipped
        self.layers = tuple(config.moe_layers)
        self._values = Computed(model, Windows(text.tokens, text.labels, text.names))

    def seen(self, part: Sequence[int]) -> Seen:
        """The counted tokens of some windows, what routers did and what was active there."""
        design = self._dictionary.design
        routed = [
            HookPoint(layer, site)
            for layer in self.layers
            for site in (EXPERTS, ROUTER_LOGITS, STREAM)
        ]
        found = self._gathered(part, tuple(dict.fromkeys((*design.sources, *routed))))
        own = self._text.tokens
        window = np.concatenate([np.full(len(own[w]), w, np.int32) for w in part])
        position = np.concatenate([np.arange(len(own[w]), dtype=np.int32) for w in part])
        token = np.concatenate([own[w] for w in part]).astype(np.int32)
        before = np.where(position > 0, np.concatenate([[-1], token[:-1]]), -1)
        counted = position >= self.skipped
        row = np.cumsum(counted) - 1
        fired = []
        for values in self._features(found):
            at, feature = np.nonzero(values * counted[:, None])
            fired.append(
                Fired(row[at].astype(np.int32), feature.astype(np.int32), values[at, feature])
            )
        streams = [found[HookPoint(layer, STREAM)] for layer in self.layers]
        scale = [1 / np.sqrt(np.square(one, dtype=np.float64).mean(1) + 1e-5) for one in streams]

        def of_routers(site: str) -> np.ndarray:
            return np.stack([found[HookPoint(layer, site)][counted] for layer in self.layers])

        return Seen(
            window[counted],
            position[counted],
            token[counted],
            before[counted].astype(np.int32),
            self._text.labels[window[counted]],
            of_routers(EXPERTS),
            of_routers(ROUTER_LOGITS),
            np.stack(scale)[:, counted].astype(np.float32),
            fired,
        )

    def features(self, part: Sequence[int]) -> list[np.ndarray]:
        """Strengths of all features at all tokens of some windows, [B, F] of each group."""
        design = self._dictionary.design
        choices = [HookPoint(layer, EXPERTS) for layer in design.layers if design.n_experts]
        return self._features(self._gathered(part, tuple({*design.sources, *choices})))

    def _gathered(
        self, part: Sequence[int], points: Sequence[HookPoint]
    ) -> dict[HookPoint, np.ndarray]:
        """Values of points [B, …], windows in their order."""
        own: dict[int, dict[HookPoint, np.ndarray]] = {}
        for window, values in self._values.of(part, points):
            n = len(self._text.tokens[window])
            own[window] = {point: np.asarray(value[:n]) for point, value in values.items()}
        return {point: np.concatenate([own[w][point] for w in part]) for point in points}

    def _features(self, found: dict[HookPoint, np.ndarray]) -> list[np.ndarray]:
        design = self._dictionary.design
        n = len(found[design.sources[0]])
        x = np.zeros((len(design.sources), self._rows, design.d_model), np.float32)
        for i, point in enumerate(design.sources):
            x[i, :n] = found[point]
        chosen = None
        if design.n_experts:
            picked = [found[HookPoint(layer, EXPERTS)] for layer in design.layers]
            chosen = np.full((len(picked), self._rows, picked[0].shape[-1]), -1, np.int32)
            chosen[:, :n] = np.stack(picked)
        return [np.asarray(one)[:n] for one in active(self._dictionary, x, chosen)]
