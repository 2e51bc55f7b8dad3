"""The largest of many values are found as one search would."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from grok.engine.largest import MANY, STRETCH, largest

LONG = MANY + STRETCH


@pytest.mark.parametrize("n_values", [50, LONG, LONG + 1])
@pytest.mark.parametrize("count", [1, 8, 40])
def test_they_and_their_places_are_those_of_one_search_ties_included(n_values, count):
    rng = np.random.default_rng(count)
    values = np.round(rng.standard_normal((2, 3, n_values)) * 4).astype(np.float32)
    values += 0.0  # no zeros below zero
    values[0, 0, :100:7] = values.max() + 1  # several in one stretch
    values[1, 2] = 1.5  # all alike
    found, places = jax.jit(largest, static_argnums=1)(values, count)
    order = np.argsort(-values, axis=-1, kind="stable")[..., :count]
    assert np.array_equal(places, order)
    assert np.array_equal(found, np.take_along_axis(values, order, axis=-1))
    row_by_row = jax.jit(jax.vmap(partial(largest, count=count)))(values[0])
    assert np.array_equal(row_by_row[1], order[0])
