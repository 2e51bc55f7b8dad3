"""What explains values without a dictionary: principal axes, and means for tokens and pairs.

A dictionary that does not beat them at the same number of active features has found nothing.

Axes: M sites written, B tokens, D width, P keys of a table. No JAX here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

TABLE_BYTES = 128 * 2**20  # of each table of means; the most frequent keys have room first


class Means:
    """Sums of values by a key, of a token or of a pair of them, in float32.

    Args:
        keys: those that may have a mean [P], ascending.
        shape: of one value, (M, D).
    """

    def __init__(self, keys: np.ndarray, shape: tuple[int, int]) -> None:
        self.keys = keys
        self._sums = np.zeros((len(keys), *shape), np.float32)
        self._seen = np.zeros(len(keys))

    def _rows(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of some keys [B] have a row, and the rows."""
        if not len(self.keys):
            return np.zeros(len(keys), bool), np.zeros(0, int)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        there = self.keys[rows] == keys
        return there, rows[there]

    def add(self, off: np.ndarray, keys: np.ndarray) -> None:
        """Adds values [M, B, D] with keys [B]."""
        there, rows = self._rows(keys)
        order = np.argsort(rows, kind="stable")
        kinds, first = np.unique(rows[order], return_index=True)
        if len(kinds):
            own = np.add.reduceat(off[:, there][:, order], first, axis=1)
            self._sums[kinds] += own.swapaxes(0, 1)
            self._seen[kinds] += np.diff([*first, len(rows)])

    def offset(self, keys: np.ndarray, base: np.ndarray) -> np.ndarray:
        """How far each key's mean is from `base` [M, B, D], as one more value at `base` has it.

        A key that was seen once says little, and one that was not seen says nothing.
        """
        there, rows = self._rows(keys)
        out = np.zeros_like(base)
        seen = self._seen[rows][None, :, None]
        own = self._sums[rows].swapaxes(0, 1)
        out[:, there] = (own - seen * base[:, there]) / (seen + 1)
        return out

    def covered(self, keys: np.ndarray) -> float:
        """The share of keys [B] that were seen."""
        there, rows = self._rows(keys)
        return float((self._seen[rows] > 0).sum() / len(there))


def kept_keys(fit: np.ndarray, needed: np.ndarray, value_bytes: int) -> np.ndarray:
    """Keys that stand in both texts, ascending; where memory is short the most frequent ones."""
    keys, counts = np.unique(fit, return_counts=True)
    both = np.isin(keys, needed)
    keys, counts = keys[both], counts[both]
    most = max(1, TABLE_BYTES // value_bytes)
    return np.asarray(np.sort(keys[np.argsort(-counts, kind="stable")[:most]]))


@dataclass
class Fitted:
    """Means and principal axes of values, fitted on text of training.

    Attributes:
        mean: of values [M, D].
        axes: principal axes [M, D, D], the largest first, in columns.
        tokens, pairs: means of tokens, and of tokens after the one before.
        vocab_size: of the tokens.
        reference: what the sums of means are shifted by [M, D].
    """

    mean: np.ndarray
    axes: np.ndarray
    tokens: Means
    pairs: Means
    vocab_size: int
    reference: np.ndarray

    def token_mean(self, tokens: np.ndarray) -> np.ndarray:
        """The mean for each token [M, B, D]."""
        return self._of_tokens(tokens) + self.reference[:, None]

    def _of_tokens(self, tokens: np.ndarray) -> np.ndarray:
        base = np.repeat((self.mean - self.reference)[:, None], len(tokens), axis=1)
        return base + self.tokens.offset(tokens, base)

    def bigram_mean(self, previous: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The mean for each token after the one before it, near that for the token [M, B, D]."""
        base = self._of_tokens(tokens)
        keys = pair_keys(previous, tokens, self.vocab_size)
        return base + self.pairs.offset(keys, base) + self.reference[:, None]

    def best_axes(self, y: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Values [M, B, D] by the k [M] principal axes that are largest in each token."""
        return self._on_axes(y, k, best=True)

    def first_axes(self, y: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Values [M, B, D] by the first k [M] principal axes."""
        return self._on_axes(y, k, best=False)

    def _on_axes(self, y: np.ndarray, k: np.ndarray, best: bool) -> np.ndarray:
        out = np.empty(y.shape)
        for i, own in enumerate(y):
            at = (own.astype(np.float64) - self.mean[i]) @ self.axes[i]
            n = min(int(k[i]), at.shape[1])
            if best and 0 < n < at.shape[1]:
                left_out = np.argpartition(-np.abs(at), n - 1, axis=1)[:, n:]
                np.put_along_axis(at, left_out, 0, axis=1)
            else:
                at[:, n:] = 0
            out[i] = at @ self.axes[i].T + self.mean[i]
        return out


def pair_keys(previous: np.ndarray, tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """A number for each pair of tokens, [B]; those without a token before have their own."""
    return np.asarray((previous + 1).astype(np.int64) * vocab_size + tokens)


@dataclass
class Fitting:
    """Sums that `Fitted` follows from.

    Attributes:
        reference: what values are shifted by [M, D].
        vocab_size: of the tokens.
        tokens, pairs: where means go.
    """

    reference: np.ndarray
    vocab_size: int
    tokens: Means
    pairs: Means
    n: int = 0
    total: Any = 0.0
    square: Any = 0.0

    def add(self, y: np.ndarray, tokens: np.ndarray, previous: np.ndarray) -> None:
        """Adds values [M, B, D] of tokens [B] and of those before them [B]."""
        off = y.astype(np.float64) - self.reference[:, None]
        self.n += y.shape[1]
        self.total = self.total + off.sum(1)
        self.square = self.square + off.swapaxes(1, 2) @ off
        self.tokens.add(off, tokens)
        self.pairs.add(off, pair_keys(previous, tokens, self.vocab_size))

    def fitted(self) -> Fitted:
        mean = self.total / self.n
        covariance = self.square / self.n - mean[:, :, None] * mean[:, None, :]
        _, vectors = np.linalg.eigh(covariance)
        return Fitted(
            self.reference + mean,
            vectors[:, :, ::-1],
            self.tokens,
            self.pairs,
            self.vocab_size,
            self.reference,
        )


@dataclass
class Controls:
    """Squared errors of the controls, summed over tokens.

    Attributes:
        fitted: the controls.
        best: of the k principal axes that are largest in each token, for k 0 to D [M, D + 1].
        first: of the first k principal axes, likewise.
        token_mean, bigram_mean: of the mean for the token, and for it and the one before [M].
    """

    fitted: Fitted
    best: Any = field(default=0.0)
    first: Any = field(default=0.0)
    token_mean: Any = field(default=0.0)
    bigram_mean: Any = field(default=0.0)

    def add(self, y: np.ndarray, tokens: np.ndarray, previous: np.ndarray) -> None:
        """Adds values [M, B, D] of tokens [B] and of those before them [B]."""
        y = y.astype(np.float64)
        energy = np.square((y - self.fitted.mean[:, None]) @ self.fitted.axes)
        total = energy.sum((1, 2))[:, None]
        first = np.cumsum(energy.sum(1), axis=1)
        best = np.cumsum(np.sort(energy, axis=2)[:, :, ::-1].sum(1), axis=1)
        none = np.zeros((len(y), 1))
        self.best = self.best + total - np.concatenate([none, best], axis=1)
        self.first = self.first + total - np.concatenate([none, first], axis=1)
        self.token_mean += np.square(y - self.fitted.token_mean(tokens)).sum((1, 2))
        bigram = self.fitted.bigram_mean(previous, tokens)
        self.bigram_mean += np.square(y - bigram).sum((1, 2))


def at_level(errors: np.ndarray, l0: np.ndarray) -> np.ndarray:
    """Errors [M, D + 1] at so many axes [M], between whole numbers on a line."""
    k = np.clip(l0, 0, errors.shape[1] - 1)
    low = np.minimum(k.astype(int), errors.shape[1] - 2)
    rows = np.arange(len(errors))
    return np.asarray(errors[rows, low] + (k - low) * (errors[rows, low + 1] - errors[rows, low]))


@dataclass
class Shuffled:
    """Error of reconstructions that belong to another token of the same domain.

    Over all ways to shuffle within a domain, so without drawing one: E‖y − ŷ'‖² is
    E‖y‖² + E‖ŷ‖² − 2⟨E y, E ŷ⟩, each a mean over the domain.

    Attributes:
        reference: what values are shifted by [M, D].
        n: tokens of each domain [N].
        squares: Σ‖y‖² + Σ‖ŷ‖² of each domain, shifted [N, M].
        y, found: Σ y and Σ ŷ, shifted [N, M, D].
    """

    reference: np.ndarray
    n: np.ndarray
    squares: np.ndarray
    y: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, reference: np.ndarray, domains: int) -> Shuffled:
        """Nothing added yet."""
        m, d = reference.shape
        sums = [np.zeros((domains, m, d)) for _ in range(2)]
        return cls(reference, np.zeros(domains), np.zeros((domains, m)), *sums)

    def add(self, y: np.ndarray, found: np.ndarray, domain: np.ndarray) -> None:
        """Adds tokens: values and reconstructions [M, B, D] and domains [B]."""
        y, found = (one.astype(np.float64) - self.reference[:, None] for one in (y, found))
        both = np.square(y).sum(-1) + np.square(found).sum(-1)
        for one in np.unique(domain):
            here = domain == one
            self.n[one] += here.sum()
            self.squares[one] += both[:, here].sum(1)
            self.y[one] += y[:, here].sum(1)
            self.found[one] += found[:, here].sum(1)

    def error(self) -> np.ndarray:
        """Σ‖y − ŷ'‖² [M]."""
        product = (self.y * self.found).sum(-1) / np.maximum(self.n, 1)[:, None]
        return np.asarray((self.squares - 2 * product).sum(0))
