"""Streamed models that a server shares: one queue, one set of buffers, turns between tokens."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from grok import cached
from grok.cached import shared_model
from grok.serving.shared_model import STREAMED, SharedModel

SMALL = str(Path(__file__).resolve().parents[2] / "data" / "tiny3")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    cached._streamed.clear()


def test_only_one_streamed_model_is_kept_for_its_buffers_take_the_budget():
    first = shared_model(SMALL, "bfloat16", "streamed", 2_000_000_000)
    assert shared_model(SMALL, "bfloat16", "streamed", 2_000_000_000) is first
    first.trace([5, 17, 3])
    gone = weakref.ref(first.model.engine.layers)
    del first
    second = shared_model(SMALL, "float32", "streamed", 2_000_000_000)
    assert gone() is None
    assert second.model.dtype == "float32" and second.model.mode == "streamed"


def test_all_streamed_models_stand_in_one_queue_and_resident_ones_in_their_own(tiny3):
    streamed = shared_model(SMALL, "bfloat16", "streamed")
    assert streamed.queue is STREAMED
    assert SharedModel(tiny3).queue is not STREAMED


def test_others_take_their_turns_between_the_tokens_of_a_streamed_model(tiny3):
    shared = shared_model(SMALL, "bfloat16", "streamed")
    steps = shared.stream([5, 17, 3], max_new_tokens=4)
    first = next(steps)
    assert STREAMED.n_callers == 1  # it comes back for the next token
    between = shared.trace([42, 99])
    rest = list(steps)
    assert STREAMED.n_callers == 0
    alone = shared.generate([5, 17, 3], max_new_tokens=4)
    assert [first.token, *(step.token for step in rest)] == alone.new_tokens
    assert np.array_equal(between.experts, shared.trace([42, 99]).experts)


def test_a_sweep_of_a_streamed_model_is_one_turn_and_finds_what_the_resident_one_finds(tiny3):
    shared, seen = shared_model(SMALL, "bfloat16", "streamed"), set()
    sweep = shared.ablation_sweep(
        [5, 17, 3], layers=[1], progress=lambda done, total: seen.add(STREAMED.n_callers)
    )
    assert seen == {1} and STREAMED.n_callers == 0
    resident = SharedModel(tiny3).ablation_sweep([5, 17, 3], layers=[1])
    np.testing.assert_allclose(sweep.values, resident.values, atol=0.02)
