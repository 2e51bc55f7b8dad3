"""Pairs of layers beside unrelated directions and shuffled coordinates: uniform on noise.

Those two references hold for isotropic weights, and `test_fair_nulls` has the table of the
nulls that hold for others. Small routers, [12, 256, 8] and 199 draws, so that hundreds of
sets take seconds. With 120 uniform values the Kolmogorov–Smirnov distance exceeds 0.149 in 1
of 100 cases.
"""

import numpy as np
import pytest
from scipy.stats import kstest

from lens.layers.pair_null import layer_null, permutation_null
from lens.layers.similarity import adjacent_layers
from lens.layers.transitions import drawn_series, transitions
from lens.routers.gram import RouterGram, gram_of_columns
from lens.routers.router_set import RouterSet
from lens.routers.shuffled_coordinates import permuted_sets

SEEDS = 120
DRAWS = 199
FAR = 0.149
SHAPE = (12, 256, 8)


def noise(seed: int) -> RouterSet:
    rng = np.random.default_rng([seed, 83])
    return RouterSet(rng.standard_normal(SHAPE).astype(np.float32))


def gram_of(routers: RouterSet) -> RouterGram:
    return gram_of_columns(routers.columns())


@pytest.fixture(scope="module")
def p_values() -> dict[str, np.ndarray]:
    """A p-value of every test for each of 120 sets of noise."""
    found: dict[str, list[float]] = {}

    def note(name: str, p: float) -> None:
        found.setdefault(name, []).append(float(p))

    for seed in range(SEEDS):
        routers = noise(seed)
        gram = gram_of(routers)
        for metric in ("cka", "matched_cosine", "principal_angles", "cosine"):
            null = layer_null(gram, metric, draws=DRAWS, seed=seed)
            note(f"pair of layers, {metric}", null.p[2, 7])
            if metric == "cka":
                sets = permuted_sets(routers.columns(), 3, seed)
                *_, shuffled = permutation_null(gram, sets, null, seed=seed)
                note("pair of layers, shuffled coordinates", shuffled.p[2, 7])
                series = drawn_series(gram, null, draws=DRAWS, seed=seed)
                change = transitions(adjacent_layers(gram), series)
                note("largest change", np.nanmin(change.p))
    return {name: np.array(values) for name, values in found.items()}


NAMES = [
    "pair of layers, cka",
    "pair of layers, matched_cosine",
    "pair of layers, principal_angles",
    "pair of layers, cosine",
    "pair of layers, shuffled coordinates",
    "largest change",
]


@pytest.mark.parametrize("name", NAMES)
def test_p_values_of_noise_are_uniform(p_values, name):
    values = p_values[name]
    assert len(values) == SEEDS
    assert kstest(values, "uniform").statistic < FAR
    assert 0 < (values <= 0.05).mean() < 0.11  # 0.05, with a spread of 0.02


def test_every_test_has_been_looked_at(p_values):
    assert sorted(p_values) == sorted(NAMES)


def related(strength: float, seed: int) -> RouterGram:
    """Noise in which layer 7 reads a part of what layer 2 reads, under other labels."""
    rng = np.random.default_rng([seed, 89])
    layers = rng.standard_normal(SHAPE)
    shared = layers[2][:, rng.permutation(8)]
    layers[7] = strength * shared + np.sqrt(1 - strength**2) * layers[7]
    return gram_of(RouterSet(layers.astype(np.float32)))


@pytest.mark.parametrize("metric", ["cka", "matched_cosine"])
def test_power_rises_with_the_strength_of_a_planted_pair(metric):
    power = []
    for strength in (0.0, 0.2, 0.4):
        p = [
            layer_null(related(strength, seed), metric, draws=DRAWS, seed=seed).p[2, 7]
            for seed in range(60)
        ]
        power.append(float(np.mean(np.array(p) <= 0.05)))
    assert power[0] < 0.2 < 0.5 < power[1] <= power[2] and power[2] > 0.98
