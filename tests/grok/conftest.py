"""JAX on eight CPU devices, so that sharding is testable anywhere; models shared by the session.

A test that wants a single device says `mesh=(1, 1)`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

from grok.runner import loading as runner  # noqa: E402

DATA = Path(__file__).resolve().parents[1] / "data"


@cache
def _model(name: str, dtype: str, mesh: tuple[int, int]) -> runner.Model:
    return runner.load(DATA / name, dtype=dtype, mesh=mesh)


@pytest.fixture(scope="session")
def model() -> Callable[..., runner.Model]:
    """model(name, dtype="float32", mesh=(1, 1)) of tests/data, loaded once."""

    def of(name: str, dtype: str = "float32", mesh: tuple[int, int] = (1, 1)) -> runner.Model:
        return _model(name, dtype, mesh)

    return of


@pytest.fixture(scope="session")
def tiny3(model: Callable[..., runner.Model]) -> runner.Model:
    """Three layers in float32 on one device."""
    return model("tiny3")
