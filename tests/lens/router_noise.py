"""Routers without structure, in the ways that real ones are uneven, and with structure planted.

Axes: layer (L), d_model (d), expert (E).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lens.routers.gram import RouterGram, gram_of_columns
from lens.routers.router_set import RouterSet

SHAPE = (12, 256, 8)
SUBSPACE = 32
OUTLIER = 15.0


def _lognormal(sigma: float) -> Callable[[np.random.Generator, np.ndarray], np.ndarray]:
    def shared(rng: np.random.Generator, layers: np.ndarray) -> np.ndarray:
        return layers * np.exp(sigma * rng.standard_normal(layers.shape[1]))[:, None]

    return shared


def _outlier(rng: np.random.Generator, layers: np.ndarray) -> np.ndarray:
    scale = np.ones(layers.shape[1])
    scale[rng.integers(len(scale))] = OUTLIER
    return layers * scale[:, None]


def _subspace(rng: np.random.Generator, layers: np.ndarray) -> np.ndarray:
    n_layers, d_model, n_experts = layers.shape
    frame = np.linalg.qr(rng.standard_normal((d_model, SUBSPACE)))[0]
    return frame @ layers[:, :SUBSPACE]


def _student(rng: np.random.Generator, layers: np.ndarray) -> np.ndarray:
    return layers * np.sqrt(3 / rng.chisquare(3, layers.shape))


def _own_gamma(rng: np.random.Generator, layers: np.ndarray) -> np.ndarray:
    return layers * np.exp(0.5 * rng.standard_normal(layers.shape[:2]))[:, :, None]


def _scales(rng: np.random.Generator, layers: np.ndarray) -> np.ndarray:
    return layers * np.exp(rng.standard_normal(len(layers)))[:, None, None]


# What independent normal weights are turned into.
KINDS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "isotropic": lambda rng, layers: layers,
    "shared γ, σ 0.5": _lognormal(0.5),
    "shared γ, σ 1": _lognormal(1.0),
    "outlier × 15": _outlier,
    "subspace of 32": _subspace,
    "Student-t, 3": _student,
    "own γ, σ 0.5": _own_gamma,
    "unequal layers": _scales,
}


def noise(kind: str, seed: int, shape: tuple[int, int, int] = SHAPE) -> RouterSet:
    """A set of one kind, without anything to find."""
    rng = np.random.default_rng([seed, 83])
    layers = rng.standard_normal(shape)
    return router_set(KINDS[kind](rng, layers))


def router_set(layers: np.ndarray) -> RouterSet:
    return RouterSet(layers.astype(np.float32))


def canonical(routers: RouterSet) -> RouterGram:
    return gram_of_columns(routers.columns())


def _relabelled(rng: np.random.Generator, layers: np.ndarray) -> np.ndarray:
    return np.stack([layer[:, rng.permutation(layer.shape[1])] for layer in layers])


def _blend(share: float, common: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Layers of which a part of the variance is `common`, for independent normal both."""
    return np.sqrt(share) * common + np.sqrt(1 - share) * layers


def shared_part(rng: np.random.Generator, layers: np.ndarray, share: float = 0.3) -> np.ndarray:
    """Every layer has the same experts in `share` of its variance, under labels of its own."""
    return _relabelled(rng, _blend(share, rng.standard_normal(layers.shape[1:]), layers))


def two_halves(rng: np.random.Generator, layers: np.ndarray, share: float = 0.3) -> np.ndarray:
    """The first and the last half of the layers each have experts of their own in common."""
    half = len(layers) // 2
    return np.concatenate(
        [shared_part(rng, layers[:half], share), shared_part(rng, layers[half:], share)]
    )


def chain_of_six(rng: np.random.Generator, layers: np.ndarray, share: float = 0.5) -> np.ndarray:
    """One expert goes through layers 3 to 8; all others are unrelated."""
    found = layers.copy()
    direction = rng.standard_normal(layers.shape[1])
    for layer in range(3, 9):
        expert = rng.integers(layers.shape[2])
        found[layer, :, expert] = _blend(share, direction, layers[layer, :, expert])
    return found


def long_expert(rng: np.random.Generator, layers: np.ndarray, factor: float = 1.3) -> np.ndarray:
    """Expert 3 of layer 5 has a column longer by `factor`."""
    found = layers.copy()
    found[5, :, 3] *= factor
    return found


PLANTED: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "shared part 0.3": shared_part,
    "two halves": two_halves,
    "chain of six": chain_of_six,
    "one long expert": long_expert,
}


def planted(
    effect: str, kind: str, seed: int, shape: tuple[int, int, int] = SHAPE, **size: float
) -> RouterSet:
    """A set with one effect, under one kind of unevenness."""
    rng = np.random.default_rng([seed, 97])
    layers = PLANTED[effect](rng, rng.standard_normal(shape), **size)
    return router_set(KINDS[kind](rng, layers))
