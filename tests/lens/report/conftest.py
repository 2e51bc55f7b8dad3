"""One whole report, as the command writes it, for all that is said of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lens.report.__main__ import main
from lens.routers.router_set import RouterSet, save_routers

HOSTILE = '<script>alert(1)</script><img src="http://x.example/y">'


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RouterSet]:
    """The folder of figures, and the routers: six layers, of which L3 is nearly L2 relabelled."""
    folder = tmp_path_factory.mktemp("report")
    weights = np.random.default_rng(3).normal(size=(6, 32, 6)).astype(np.float32)
    weights[3] = weights[2][:, [1, 0, 3, 2, 5, 4]] + 0.1 * weights[3]
    routers = RouterSet(weights, source=HOSTILE)
    save_routers(routers, folder / "routers.npz")
    arguments = ["--input", str(folder / "routers.npz"), "--output-dir", str(folder / "figures")]
    assert main([*arguments, "--seed", "7"]) == 0
    return folder / "figures", routers
