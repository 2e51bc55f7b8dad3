"""Chains and transitions in sentences: what was planted is named, and noise has none."""

from __future__ import annotations

import numpy as np
import pytest

from lens.experts.chains import significant_chains
from lens.findings import of_routers
from lens.layers.pair_null import layer_null
from lens.layers.similarity import adjacent_layers
from lens.layers.transitions import drawn_series, transitions
from lens.routers.gram import RouterGram, gram_of_columns
from tests.headline_words import faults

NAMES = [f"L{layer}" for layer in range(16)]


def two_runs() -> RouterGram:
    """Eight layers that are alike, then eight others that are."""
    rng = np.random.default_rng(5)
    layers = [
        0.8 * base + 0.6 * rng.standard_normal((120, 6))
        for base in rng.standard_normal((2, 120, 6))
        for _ in range(8)
    ]
    return gram_of(np.stack(layers))


def noise() -> RouterGram:
    return gram_of(np.random.default_rng(6).standard_normal((8, 120, 6)))


def gram_of(layers: np.ndarray) -> RouterGram:
    return gram_of_columns(layers - layers.mean(axis=2, keepdims=True))


def changes(gram: RouterGram):
    adjacent = adjacent_layers(gram, "cka")
    series = drawn_series(gram, layer_null(gram, "cka", draws=19), draws=99)
    found = transitions(adjacent, series)
    return found, of_routers.routing_changes(found, adjacent, NAMES, "unrelated")


def test_the_border_of_two_runs_is_named_with_its_direction():
    found, said = changes(two_runs())
    assert said.found and abs(said.effect) == np.nanmax(np.abs(found.change))
    assert "drops from L7 to L8" in said.sentence or "rises from L8 to L9" in said.sentence
    assert "L7→L8 (p " in said.detail and "99 draws, seed 0" in said.detail
    assert not faults(said.sentence)


def test_noise_has_no_change_to_name():
    found, said = changes(noise())
    assert not found.found.any()
    assert said.verdict == "not told from chance" and "no more than chance" in said.sentence
    assert ": none (" in said.detail


@pytest.mark.parametrize(("gram", "goes_on"), [(two_runs(), True), (noise(), False)])
def test_experts_carry_on_where_layers_are_alike_alone(gram, goes_on):
    found = significant_chains(gram, draws=99)
    said = of_routers.experts_carry_on(found)
    assert said.found == goes_on == (found.n_beyond > 0)
    assert f"{found.n_beyond} of {found.n_links} matches between adjacent layers" in said.detail
    assert not faults(said.sentence)
