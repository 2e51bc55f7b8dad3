"""How little of a repository is fetched for its routers: requests and bytes, counted by a server.

    python -m benchmarks hub

The server runs on this machine and speaks the Hub's protocol. It holds Grok-1's 770 files at
their released sizes, then six models in safetensors files; of every file far larger than memory
it holds the parts that are not zeros. Counts, no times: a loopback says nothing about those.
Heads are requests for a file's identity alone, one a file, as the Hub's client asks.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.extraction import make_checkpoint
from benchmarks.hub.models import MODELS, Released, files_of_model, needed_bytes
from benchmarks.hub.server import REPOSITORY, Content, HubServer, Sparse, serving
from lens.extract.hub import GROK_1_SIZES, extract_from_hub

MOST_FILES = 1.0  # bytes that came over those of the 128 files, or 64, of Grok-1
MOST_RANGES = 1.25  # over those of the tensors that are needed: the rest are headers and index


@dataclass(frozen=True)
class Fetching:
    """What one extraction asked for.

    Attributes:
        name: of the model.
        layers, experts: that routers came for.
        whole: bytes of the repository.
        needed: bytes of the files, or tensors, that hold routers and norms.
        sent: bytes of files that came.
        listings, heads, gets: requests.
        limit: of sent / needed.
    """

    name: str
    layers: int
    experts: int
    whole: int
    needed: int
    sent: int
    listings: int
    heads: int
    gets: int
    limit: float

    @property
    def over(self) -> float:
        """What came, over what was needed."""
        return self.sent / self.needed

    @property
    def held(self) -> bool:
        """Whether no more than the limit came."""
        return self.over <= self.limit

    def line(self) -> str:
        """One row of the table."""
        return (
            f"{self.name:<20}{self.layers:>7}{self.experts:>9}{self.whole / 1e9:>11,.1f}"
            f"{self.needed / 1e6:>12.2f}{self.sent / 1e6:>13.2f}{self.over:>7.2f}"
            f"{self.sent / self.whole:>10.1e}{self.listings:>10}{self.heads:>7}{self.gets:>6}"
            f"   limit {self.limit:g}: {'held' if self.held else 'NOT HELD'}"
        )


HEADER = (
    f"{'model':<20}{'layers':>7}{'experts':>9}{'whole, GB':>11}{'needed, MB':>12}"
    f"{'fetched, MB':>13}{'ratio':>7}{'share':>10}{'listings':>10}{'heads':>7}{'gets':>6}"
)


@contextmanager
def hub_of(files: dict[str, Content]) -> Iterator[HubServer]:
    """A server that this process takes for the Hub, with an empty cache."""
    import huggingface_hub.constants as constants

    with tempfile.TemporaryDirectory() as cache, serving(files) as server:
        kept = constants.HF_HUB_CACHE, os.environ.get("HF_ENDPOINT"), os.environ.pop("HF_TOKEN", "")
        constants.HF_HUB_CACHE = cache
        os.environ["HF_ENDPOINT"] = server.address
        try:
            yield server
        finally:
            constants.HF_HUB_CACHE = kept[0]
            for name, value in (("HF_ENDPOINT", kept[1]), ("HF_TOKEN", kept[2])):
                if value:
                    os.environ[name] = value
                else:
                    os.environ.pop(name, None)


def fetching(
    name: str, files: dict[str, Content], needed: int, *, norms: bool = True, limit: float
) -> Fetching:
    """Extracts the routers of a repository and counts what the server was asked for."""
    with hub_of(files) as server:
        routers, _ = extract_from_hub(REPOSITORY, norms=norms)
        return Fetching(
            name,
            routers.n_layers,
            routers.n_experts,
            server.n_bytes,
            needed,
            server.sent,
            server.asked["info"],
            server.asked["HEAD file"],
            server.asked["GET file"],
            limit,
        )


def grok_1_files(folder: Path) -> dict[str, Content]:
    """Grok-1's 770 files: the 128 of routers and norms in full, the others as their sizes."""
    real = set(make_checkpoint(folder))
    return {
        f"ckpt-0/{path.name}": path.read_bytes() if path in real else Sparse(path.stat().st_size)
        for path in sorted((folder / "ckpt-0").iterdir())
    }


def measured(models: Sequence[Released] = MODELS) -> list[Fetching]:
    """Grok-1 with and without norms, and the other models."""
    with tempfile.TemporaryDirectory() as temporary:
        files = grok_1_files(Path(temporary) / "model")
    n_routers, n_norms = (64 * GROK_1_SIZES[kind] for kind in ("router", "norm"))
    found = [
        fetching("Grok-1", files, n_routers + n_norms, limit=MOST_FILES),
        fetching("Grok-1, --no-norms", files, n_routers, norms=False, limit=MOST_FILES),
    ]
    return found + [
        fetching(model.name, files_of_model(model), needed_bytes(model), limit=MOST_RANGES)
        for model in models
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Counts and prints the table; returns 1 when a limit is not held."""
    print("Routers from a server on this machine that holds whole repositories: what is asked for")
    rows = measured()
    print(HEADER)
    for row in rows:
        print(row.line())
    return int(not all(row.held for row in rows))


if __name__ == "__main__":
    sys.exit(main())
