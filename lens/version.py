"""The version of this program."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def version() -> str:
    """The version as installed, else as the source says."""
    try:
        return metadata.version("grok-moe-lens")
    except metadata.PackageNotFoundError:
        source = Path(__file__).resolve().parents[1] / "pyproject.toml"
        if not source.is_file():
            return "unknown"
        return str(tomllib.loads(source.read_text(encoding="utf-8"))["project"]["version"])
