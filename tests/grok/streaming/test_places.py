"""Memory that weights lie in is used again, and never while something refers to it."""

from __future__ import annotations

import jax
import numpy as np

from grok.checkpoints.room import LARGE_PAGE
from grok.streaming.by_expert.places import Places

SHAPE = (LARGE_PAGE // 4,)
SIZE = LARGE_PAGE


def test_memory_of_what_is_gone_is_used_again() -> None:
    places = Places(4 * SIZE)
    one = places.room(SHAPE, np.float32)
    at = one.ctypes.data
    assert (places.n_bytes, places.n_free) == (SIZE, 0) and at % 64 == 0
    del one
    assert places.n_free == SIZE
    again = places.room((2, LARGE_PAGE // 8), np.float32)
    assert again.ctypes.data == at and again.shape == (2, LARGE_PAGE // 8)
    assert (places.n_bytes, places.n_free) == (SIZE, 0)


def test_memory_that_is_looked_at_is_not_given_to_another() -> None:
    places = Places(4 * SIZE)
    one = places.room(SHAPE, np.float32)
    one[:] = 1
    part, held = one.reshape(2, -1)[1:].view(np.int32), jax.device_put(one, jax.devices("cpu")[0])
    at = one.ctypes.data
    assert held.unsafe_buffer_pointer() == at
    del one
    others = [places.room(SHAPE, np.float32)]
    others[0][:] = 2
    assert others[0].ctypes.data != at and (np.asarray(held) == 1).all()
    del held
    others.append(places.room(SHAPE, np.float32))
    assert others[1].ctypes.data != at and (part.view(np.float32) == 1).all()


def test_no_more_is_kept_than_may_be() -> None:
    places = Places(2 * SIZE)
    own = [places.room(SHAPE, np.float32) for _ in range(3)]
    assert places.n_bytes == 3 * SIZE  # in use, so it cannot be less
    own.pop()
    assert (places.n_bytes, places.n_free) == (2 * SIZE, 0)
    own.pop()
    assert (places.n_bytes, places.n_free) == (2 * SIZE, SIZE)
    own.append(places.room((LARGE_PAGE // 2,), np.float32))  # has no room beside what is free
    assert (places.n_bytes, places.n_free) == (3 * SIZE, 0)
    own.clear()
    assert places.n_bytes <= 2 * SIZE
    places.resize(0)
    assert (places.n_bytes, places.n_free) == (0, 0)


def test_small_arrays_come_from_elsewhere_and_begin_where_processors_can_compute() -> None:
    places = Places(SIZE)
    for n in range(1, 20):
        assert places.room((n,), np.uint8).ctypes.data % 64 == 0
    assert places.n_bytes == 0
