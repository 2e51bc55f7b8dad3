"""Repositories for a server on this machine."""

from __future__ import annotations

from pathlib import Path

from benchmarks.hub.server import Content, files_of
from lens.extract.hub import Fetched, extract_from_hub

DATA = Path(__file__).resolve().parents[0] / "data"
FILES = files_of(DATA / "tiny12")  # 12 layers, in Grok-1's format


def as_files(folder: Path) -> dict[str, Content]:
    """The files directly in a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def fetch_routers(repository: str, **options: object) -> Fetched:
    """What an extraction fetched."""
    return extract_from_hub(repository, **options)[1]
