"""The official numbers hold as users compile, too: tests/run leaves most optimisations out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = "tiny12 and bfloat16"
FILES = (HERE / "test_grok1_against_xai.py", HERE.parent / "streaming" / "test_host_layers.py")


def test_twelve_layers_with_all_optimisations_give_the_official_numbers() -> None:
    """The deepest small checkpoint, resident and streamed, in bfloat16, where roundings show."""
    given = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
    for name in [name for name in given if name.startswith("PYTEST_")]:
        del given[name]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", KEPT]
    done = subprocess.run([*command, *map(str, FILES)], env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
