"""Sums over tokens from which the quality of reconstructions follows, in float64.

Sums of parts add up, so results do not depend on how tokens are cut into batches. Values are
shifted by a fixed reference before they are squared: one-pass variances of values with a large
mean would lose their digits.

Axes: M sites written, B tokens, D width, G groups, F features. No JAX here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DENSE = (0.1, 0.01)  # shares of tokens above which a feature is called dense
BINS = np.arange(-6.0, 0.5, 0.5)  # of the logarithm of the share of tokens, base 10


@dataclass
class Reconstruction:
    """Sums over tokens of values y and their reconstructions ŷ.

    Attributes:
        reference: what values are shifted by [M, D].
        n: tokens.
        error, spread: Σ‖y − ŷ‖² and Σ‖y − reference‖² [M].
        shifted: Σ(y − reference) [M, D].
        cosine, norm, own_norm: Σ of the cosine, of ‖y‖ and of ‖ŷ‖ [M].
        product, own: Σ⟨ŷ, y⟩ and Σ⟨ŷ, ŷ⟩ [M].
    """

    reference: np.ndarray
    n: int = 0
    error: Any = 0.0
    spread: Any = 0.0
    shifted: Any = 0.0
    cosine: Any = 0.0
    norm: Any = 0.0
    own_norm: Any = 0.0
    product: Any = 0.0
    own: Any = 0.0

    def add(self, y: np.ndarray, found: np.ndarray) -> None:
        """Adds tokens: values and reconstructions [M, B, D]."""
        y, found = y.astype(np.float64), found.astype(np.float64)
        off = y - self.reference[:, None]
        self.n += y.shape[1]
        self.error += np.square(y - found).sum((1, 2))
        self.spread += np.square(off).sum((1, 2))
        self.shifted += off.sum(1)
        product, norm = (y * found).sum(-1), np.linalg.norm(y, axis=-1)
        own = np.linalg.norm(found, axis=-1)
        self.cosine += (product / np.maximum(norm * own, 1e-30)).sum(1)
        self.norm += norm.sum(1)
        self.own_norm += own.sum(1)
        self.product += product.sum(1)
        self.own += np.square(own).sum(1)

    @property
    def variance(self) -> np.ndarray:
        """Σ‖y − ȳ‖² [M]."""
        return np.asarray(self.spread - np.square(self.shifted).sum(-1) / self.n)

    def fvu(self) -> np.ndarray:
        """Σ‖y − ŷ‖² / Σ‖y − ȳ‖² of each site [M]: 0 is perfect, 1 is the mean; 1 − EV."""
        return np.asarray(self.error / self.variance)

    def numbers(self) -> dict[str, list[float]]:
        """The measures of each site, and last of all of them together: a ratio of sums."""

        def with_all(over: Any, under: Any) -> list[float]:
            over = np.asarray(over, float)
            under = np.maximum(np.broadcast_to(under, np.shape(over)), 1e-30)
            return [*(over / under).tolist(), float(over.sum() / under.sum())]

        fvu = with_all(self.error, self.variance)
        return {
            "mse": with_all(self.error, self.n),
            "fvu": fvu,
            "ev": [1 - one for one in fvu],
            "cosine": with_all(self.cosine, self.n),
            "norm_ratio": with_all(self.own_norm, self.norm),
            "shrinkage": with_all(self.product, self.own),
        }


@dataclass
class Activity:
    """How often features are active: tokens of each [G, F], of n."""

    counts: Any = 0
    n: int = 0

    def add(self, features: list[np.ndarray]) -> None:
        """Adds tokens: features [B, F] of each group."""
        self.counts = self.counts + np.stack([(one > 0).sum(0, dtype=np.int64) for one in features])
        self.n += len(features[0])

    @property
    def l0(self) -> np.ndarray:
        """Active features of a token, by group [G]."""
        return np.asarray(self.counts.sum(1) / self.n)

    def numbers(self) -> dict[str, list[float]]:
        """Measures of each group, and last of all: the mean; of `l0` also the mean."""
        rate = self.counts / self.n

        def with_all(values: np.ndarray) -> list[float]:
            return [*values.tolist(), float(values.mean())]

        return {
            "l0": with_all(self.l0),
            "dead": with_all((self.counts == 0).mean(1)),
            "dense": with_all((rate > DENSE[0]).mean(1)),
            "above_1_percent": with_all((rate > DENSE[1]).mean(1)),
        }

    def histogram(self) -> list[list[int]]:
        """Features of each group by the logarithm of their share of tokens; see `BINS`."""
        with np.errstate(divide="ignore"):
            logs = np.log10(self.counts / self.n)
        return [np.histogram(one[np.isfinite(one)], BINS)[0].tolist() for one in logs]


def mean_active(features: Sequence[Any]) -> np.ndarray:
    """Active features of a token, by group [G]: the mean over tokens of features [B, F] of each."""
    return np.array([np.count_nonzero(np.asarray(one)) / len(one) for one in features])


def nearest_cosines(decoder: np.ndarray) -> np.ndarray:
    """The largest cosine of each feature's decoders [F, W, D] with another feature's [F]."""
    own = _directions(decoder)
    cosines = own @ own.T
    np.fill_diagonal(cosines, -1)
    return np.asarray(cosines.max(1))


def partner_cosines(decoder: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The largest cosine of each feature's decoders [F, W, D] with those of another dictionary."""
    return np.asarray((_directions(decoder) @ _directions(other).T).max(1))


def _directions(decoder: np.ndarray) -> np.ndarray:
    """Decoders [F, W, D] as unit vectors [F, W·D]; those of length 0 stay."""
    flat = decoder.reshape(len(decoder), -1).astype(np.float64)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)
