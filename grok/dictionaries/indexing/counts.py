"""Sums over tokens of what every feature did: of a fixed size, and those of parts add up.

What a partition of the tokens (by token, by the last two, by text) explains of a feature's
strength is Σ_s S_s²/n_s over its classes, S_s the sum of strengths in a class of n_s tokens. The
sums of all classes of all features would not fit; they are put into a few cells each with random
signs, weighted with 1/√n_s, and the squares of the cells estimate the same sum.

Axes: R features of all groups, L routed layers, E experts, B tokens, C cells. No JAX here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from grok.dictionaries.indexing.contexts import BINS, Contexts, Reservoir, Strongest, bin_of, hashed
from grok.dictionaries.indexing.plan import Plan, Text
from grok.dictionaries.indexing.reading import Seen

CELLS = 256
PAIR_CLASSES = 2**20  # pairs of tokens share classes beyond so many


class Classes:
    """The token, and the pair of it and the one before, as classes of all tokens of a text.

    Args:
        text: of the pass.
        skipped: positions at the start of each window that do not count.
    """

    def __init__(self, text: Text, skipped: int) -> None:
        own = [one[skipped:] for one in text.tokens]
        before = [np.concatenate([[-1], one])[skipped:-1] for one in text.tokens]
        token, pair = np.concatenate(own), np.concatenate(before)
        self.n_tokens = len(token)
        self._sizes = {
            "token": np.bincount(token),
            "pair": np.bincount(self.of("pair", token, pair), minlength=PAIR_CLASSES),
        }

    def of(self, name: str, token: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The class of each token."""
        if name == "token":
            return token
        return np.asarray(hashed(7, before + 1, token) % np.uint64(PAIR_CLASSES)).astype(np.int64)

    def used(self, name: str) -> int:
        """Classes that some token is in."""
        return int(np.count_nonzero(self._sizes[name]))

    def weights(self, name: str, classes: np.ndarray) -> np.ndarray:
        """1/√n_s of classes."""
        return np.asarray(1 / np.sqrt(np.maximum(self._sizes[name][classes], 1)))


class Counts:
    """The sums of a pass.

    Args:
        groups: of the dictionary.
        features: F of a group.
        shape: routed layers and experts.
        n_labels: texts.
        plan: of the pass.
    """

    def __init__(
        self, groups: int, features: int, shape: tuple[int, int], n_labels: int, plan: Plan
    ) -> None:
        rows, (layers, experts) = groups * features, shape
        self.features, self.shape = features, shape
        self.sums: dict[str, np.ndarray] = {
            "tokens": np.zeros(n_labels, np.int64),
            "chosen": np.zeros((layers, experts), np.int64),
            "n": np.zeros(rows, np.int64),
            "total": np.zeros(rows),
            "square": np.zeros(rows),
            "bins": np.zeros((rows, BINS), np.int32),
            "by_label": np.zeros((rows, n_labels), np.int32),
            "total_by_label": np.zeros((rows, n_labels)),
            "with_expert": np.zeros((rows, layers * experts), np.int32),
            "scaled": np.zeros((rows, layers)),
            "token": np.zeros((rows, CELLS), np.float32),
            "pair": np.zeros((rows, CELLS), np.float32),
        }
        self.largest = np.zeros(rows, np.float32)
        self.strongest = Strongest(rows, plan.top)
        self.reservoir = Reservoir(rows, plan.reservoir, plan.seed)

    def add(self, seen: Seen, classes: Classes, shown: np.ndarray) -> None:
        """Adds a part.

        Args:
            seen: what was active.
            classes: of the whole text.
            shown: windows that contexts may come from [windows].
        """
        layers, experts = self.shape
        n = len(seen.token)
        hot = np.zeros((n, layers * experts), np.float32)
        for layer in range(layers):
            np.put_along_axis(hot, seen.experts[layer] + layer * experts, 1.0, axis=1)
        sums = self.sums
        sums["chosen"] += hot.sum(0).astype(np.int64).reshape(layers, experts)
        sums["tokens"] += np.bincount(seen.label, minlength=len(sums["tokens"]))
        signed = {name: _signed(seen, classes, name) for name in ("token", "pair")}
        for group, fired in enumerate(seen.fired):
            first = group * self.features
            own = slice(first, first + self.features)
            at, feature, value = fired
            self._spread("n", own, feature)
            self._spread("total", own, feature, value)
            self._spread("square", own, feature, value.astype(np.float64) ** 2)
            self._spread("bins", own, feature * BINS + bin_of(value))
            by_label = feature * len(sums["tokens"]) + seen.label[at]
            self._spread("by_label", own, by_label)
            self._spread("total_by_label", own, by_label, value)
            for name, (cell, weight) in signed.items():
                self._spread(name, own, feature * CELLS + cell[at], value * weight[at])
            np.maximum.at(self.largest[own], feature, value)
            matrix = sparse.csr_matrix((value, (feature, at)), (self.features, n))
            sums["scaled"][own] += matrix @ seen.scale.T.astype(np.float64)
            matrix.data = np.ones_like(matrix.data)
            sums["with_expert"][own] += np.rint(matrix @ hot).astype(np.int32)
            places = Contexts((feature + first).astype(np.int32), seen.window[at],
                              seen.position[at], value)  # fmt: skip
            places = places.at(shown[places.window])
            self.strongest.add(places)
            self.reservoir.add(places)

    def _spread(
        self, name: str, own: slice, cells: np.ndarray, weights: np.ndarray | None = None
    ) -> None:
        part = self.sums[name][own]
        found = np.bincount(cells, weights, minlength=part.size)
        part += found.reshape(part.shape).astype(part.dtype)

    def merge(self, other: Counts) -> None:
        """Adds the sums of other windows."""
        for name, value in other.sums.items():
            self.sums[name] += value
        np.maximum(self.largest, other.largest, out=self.largest)
        self.strongest.add(other.strongest.finished())
        self.reservoir.add(other.reservoir.finished())

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays; see `restore`."""
        kept = {"strongest": self.strongest.finished(), "reservoir": self.reservoir.finished()}
        contexts = {
            f"{name}.{part}": value
            for name, one in kept.items()
            for part, value in one._asdict().items()
        }
        return {**self.sums, "largest": self.largest, **contexts}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Takes up what `arrays` gave."""
        for name, value in self.sums.items():
            value[...] = arrays[name]
        self.largest[...] = arrays["largest"]
        for name, one in (("strongest", self.strongest), ("reservoir", self.reservoir)):
            one.add(Contexts(*(arrays[f"{name}.{part}"] for part in Contexts._fields)))

    def explained(self, classes: Classes) -> dict[str, np.ndarray]:
        """Shares of the variance of each feature's strength [R] that a partition explains.

        By text, by token, and by token with the one before. As many classes of chance explain 0
        on average (ε², the adjusted R²); a feature that was never active has none.
        """
        sums = self.sums
        n, by_label = sums["tokens"].sum(), np.maximum(sums["tokens"], 1)
        between = {
            "domain": (sums["total_by_label"] ** 2 / by_label).sum(1),
            "token": np.square(sums["token"], dtype=np.float64).sum(1),
            "pair": np.square(sums["pair"], dtype=np.float64).sum(1),
        }
        used = {
            "domain": int(np.count_nonzero(sums["tokens"])),
            "token": classes.used("token"),
            "pair": classes.used("pair"),
        }
        mean = sums["total"] ** 2 / n
        spread = sums["square"] - mean
        shares = {}
        for name, own in between.items():
            inside = np.maximum(sums["square"] - own, 0) / max(1, n - used[name])
            with np.errstate(invalid="ignore", divide="ignore"):
                shares[name] = np.clip(1 - inside * (n - 1) / spread, 0, 1)
        return shares


def _signed(seen: Seen, classes: Classes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Cell of each token's class, and its sign over √n_s."""
    own = classes.of(name, seen.token, seen.before)
    mixed = hashed(11, own)
    cell = np.asarray(mixed % np.uint64(CELLS)).astype(np.int64)
    sign = np.where(mixed >> np.uint64(40) & np.uint64(1), 1.0, -1.0)
    return cell, sign * classes.weights(name, own)
