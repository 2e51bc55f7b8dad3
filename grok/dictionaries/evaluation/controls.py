"""What explains values without a dictionary: principal axes, and the mean for each token.

A dictionary that does not beat them at the same number of active features has found nothing.

Axes: M sites written, B tokens, D width, V vocabulary. No JAX here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Fitted:
    """Means and principal axes of values, fitted on text of training.

    Attributes:
        mean: of values [M, D].
        axes: principal axes [M, D, D], the largest first, in columns.
        token_mean: mean of each token that was seen, as an offset from `mean`: [M, V, D].
    """

    mean: np.ndarray
    axes: np.ndarray
    token_mean: np.ndarray


@dataclass
class Fitting:
    """Sums that `Fitted` follows from.

    Attributes:
        reference: what values are shifted by [M, D].
        vocab_size: V.
    """

    reference: np.ndarray
    vocab_size: int
    n: int = 0
    total: Any = 0.0
    square: Any = 0.0
    by_token: Any = None
    seen: Any = None

    def add(self, y: np.ndarray, tokens: np.ndarray) -> None:
        """Adds values [M, B, D] of tokens [B]."""
        m, _, d = y.shape
        if self.by_token is None:
            self.by_token = np.zeros((m, self.vocab_size, d))
            self.seen = np.zeros(self.vocab_size)
        off = y.astype(np.float64) - self.reference[:, None]
        self.n += y.shape[1]
        self.total = self.total + off.sum(1)
        self.square = self.square + np.einsum("mbd,mbe->mde", off, off, optimize=True)
        order = np.argsort(tokens, kind="stable")
        kinds, first = np.unique(tokens[order], return_index=True)
        self.by_token[:, kinds] += np.add.reduceat(off[:, order], first, axis=1)
        self.seen[kinds] += np.diff([*first, len(tokens)])

    def fitted(self) -> Fitted:
        mean = self.total / self.n
        covariance = self.square / self.n - mean[:, :, None] * mean[:, None, :]
        _, vectors = np.linalg.eigh(covariance)
        # A token that was seen once says little: a mean shrinks towards that of all.
        weight = (self.seen + 1.0)[:, None]
        tokens = (self.by_token - self.seen[:, None] * mean[:, None]) / weight
        return Fitted(self.reference + mean, vectors[:, :, ::-1], tokens)


@dataclass
class Controls:
    """Squared errors of the controls, summed over tokens.

    Attributes:
        fitted: the controls.
        best: of the k principal axes that are largest in each token, for k 0 to D [M, D + 1].
        first: of the first k principal axes, likewise.
        token_mean: of the mean for the token [M].
    """

    fitted: Fitted
    best: Any = field(default=0.0)
    first: Any = field(default=0.0)
    token_mean: Any = field(default=0.0)

    def add(self, y: np.ndarray, tokens: np.ndarray) -> None:
        """Adds values [M, B, D] of tokens [B]."""
        off = y.astype(np.float64) - self.fitted.mean[:, None]
        energy = np.square(np.einsum("mbd,mde->mbe", off, self.fitted.axes, optimize=True))
        total = energy.sum((1, 2))[:, None]
        first = np.cumsum(energy.sum(1), axis=1)
        best = np.cumsum(np.sort(energy, axis=2)[:, :, ::-1].sum(1), axis=1)
        none = np.zeros((len(y), 1))
        self.best = self.best + total - np.concatenate([none, best], axis=1)
        self.first = self.first + total - np.concatenate([none, first], axis=1)
        given = off - self.fitted.token_mean[:, tokens]
        self.token_mean = self.token_mean + np.square(given).sum((1, 2))


def at_level(errors: np.ndarray, l0: np.ndarray) -> np.ndarray:
    """Errors [M, D + 1] at so many axes [M], between whole numbers on a line."""
    k = np.clip(l0, 0, errors.shape[1] - 1)
    low = np.minimum(k.astype(int), errors.shape[1] - 2)
    rows = np.arange(len(errors))
    return np.asarray(errors[rows, low] + (k - low) * (errors[rows, low + 1] - errors[rows, low]))
