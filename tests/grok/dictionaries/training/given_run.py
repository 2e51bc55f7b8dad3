"""A small run on values that are given, also as a process of several.

    python -m tests.grok.dictionaries.training.given_run OUTPUT DATA,MODEL

The processes that the environment names are joined.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

from grok.dictionaries.training.devices import open_mesh
from grok.dictionaries.training.run import Run, train
from grok.dictionaries.training.settings import settings_of
from grok.dictionaries.training.windows import cut
from grok.engine.sharding import initialize_distributed
from grok.interventions.sites import HookPoint

D, T, WINDOWS = 6, 8, 24
MODEL = SimpleNamespace(
    config=SimpleNamespace(n_layers=1, d_model=D, n_experts=2), name="given", sha256="a" * 64
)
VALUES = np.random.default_rng(0).standard_normal((WINDOWS, T, D)).astype(np.float32)
SETTINGS = {
    "dictionary": {"kind": "sae", "reads": ["resid_mid"], "features": 16},
    "activation": {"k": 3},
    "normalisation": {"tokens": 64},
    "text": {"context": T, "buffer": 2},
    "training": {"tokens": 32 * 6, "batch": 32, "save_every": 3, "log_every": 3},
}


class Given:
    """Values of windows, as of a collection."""

    def of(
        self, windows: Sequence[int], points: Sequence[HookPoint]
    ) -> Iterator[tuple[int, Mapping[HookPoint, np.ndarray]]]:
        for window in windows:
            yield window, {point: VALUES[window] for point in points}


def given_run(output: Path, mesh: tuple[int, int] | None = None) -> Run:
    settings = settings_of(SETTINGS)
    windows = cut({"a": np.arange(WINDOWS * T)}, T)
    return Run(settings, MODEL, windows, output, Given(), open_mesh(mesh, 16, 32))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    initialize_distributed()
    data, model = map(int, sys.argv[2].split(","))
    train(given_run(Path(sys.argv[1]), (data, model)))
