"""JAX on eight CPU devices, so that sharding is testable anywhere; models shared by the session.

What loads a model without a mesh has one of them, as it has on a computer without accelerators:
eight that share two processors take four times the work. A test of sharding names its mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

from grok.engine import sharding  # noqa: E402
from grok.runner import loading as runner  # noqa: E402


def mesh_of_one(config, shape=None, devices=None):
    return sharding.make_mesh(config, shape or (1, 1), devices)


# For the whole process, since the devices are: the tests of pages run in it too.
runner.make_mesh = mesh_of_one

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
