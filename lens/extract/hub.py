"""Routers straight from the Hugging Face Hub: the few files, or bytes, that hold them.

Of Grok-1's 770 files the 64 routers and the 64 norms before them are fetched, 14.2 MB of
318 GB, into the Hub's own cache; a download that was cut goes on where it stopped, and one
that is complete is not repeated. Sizes are checked before anything is read. Where a token is
needed it comes from the environment (HF_TOKEN) alone, and HF_ENDPOINT names another server.
With HF_HUB_OFFLINE=1 what an earlier run has fetched is read, and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from grok.checkpoints.grok1 import Checkpoint, moe_norm_path, router_path
from grok.checkpoints.hub.access import HubCommit, commit_of, explained
from grok.checkpoints.hub.ranges import HubFiles
from grok.checkpoints.model_files import CONFIG
from grok.config import GROK_1, read_config
from grok.errors import GrokError
from lens.errors import LensError, as_lens_error
from lens.extract.grok1 import extract_routers, needed_paths
from lens.extract.safetensors import extract_model
from lens.recipe.steps import remembered
from lens.routers.router_set import RouterSet
from lens.words import fixed

GROK_1_REPOSITORY = "xai-org/grok-1"
# Bytes of Grok-1's own files.
GROK_1_SIZES = {"router": 196_770, "norm": 24_727}
MOST_FILE = 64 * 2**20  # bytes; no router of a model that this project reads is larger
MOST_CONFIG = 2**20
AT_ONCE = 8

Progress = Callable[[int, int], None]
"""Called with the bytes fetched or found in the cache so far, and the bytes there are to have."""


@dataclass(frozen=True)
class Fetched:
    """Files of a checkpoint in the cache.

    Attributes:
        folder: holds `ckpt-0`, of which only these files are there; None where byte ranges
            were read and nothing is kept.
        repository, revision: where they are from; the revision is a commit.
        n_files: how many; None likewise.
        n_bytes: of the files, or of the ranges.
    """

    folder: Path | None
    repository: str
    revision: str
    n_files: int | None
    n_bytes: int


@as_lens_error()
@remembered
def extract_from_hub(
    repository: str = GROK_1_REPOSITORY,
    *,
    revision: str = "main",
    norms: bool = True,
    top_k: int | None = None,
    score: str | None = None,
    progress: Progress | None = None,
) -> tuple[RouterSet, Fetched]:
    """The routers of a model on the Hub: Grok-1's format, or safetensors files.

    Args:
        repository: "owner/name".
        revision: a branch, tag or commit.
        norms: whether to read the norm scales too (14.2 instead of 12.6 MB of Grok-1).
        top_k, score: of safetensors, see `lens.extract.safetensors`.
        progress: told in bytes, of safetensors in tensors.

    Returns:
        The router set, whose source names the repository and the whole commit, and what was
        fetched.

    Raises:
        LensError: no connection, no such repository, revision or file, no permission, files of
            another size than expected, a full disk, or what extraction refuses.
    """
    with explained(repository, revision):
        hub = commit_of(repository, revision)
    if not _has_checkpoint(hub):
        if hub.offline:
            raise LensError(
                f"{repository} at {hub.commit[:12]}: no ckpt-0 of it is in the cache, and byte "
                "ranges are read over the network alone. Unset HF_HUB_OFFLINE."
            )
        files = HubFiles(hub)
        routers, n_bytes = extract_model(
            files, norms=norms, top_k=top_k, score=score, progress=progress
        )
        fetched = Fetched(None, repository, hub.commit, None, n_bytes)
        return replace(routers, source=f"{repository} at {hub.commit}: {routers.source}"), fetched
    if top_k is not None or score is not None:
        raise LensError(
            f"{repository} is in Grok-1's format; --top-k and --score are for models in "
            "safetensors files alone. Leave them out."
        )
    fetched = _fetched(hub, norms, progress)
    assert fetched.folder is not None
    routers = extract_routers(fetched.folder, norms=norms)
    return replace(routers, source=f"{repository} at {hub.commit}"), fetched


def _fetched(hub: HubCommit, norms: bool, progress: Progress | None) -> Fetched:
    """The files of one commit, `AT_ONCE` at a time; one that fails ends the others' wait."""
    with explained(hub.repository, hub.commit[:12]):
        checkpoint = _layout(hub)
        paths = needed_paths(checkpoint, norms)
        names = {path: f"ckpt-0/{checkpoint.file(path).name}" for path in paths}
        _check_sizes(hub, checkpoint, names)
        total = sum(hub.sizes[name] for name in names.values())
        done = 0
        folder: Path | None = None
        pool = ThreadPoolExecutor(AT_ONCE)
        coming = {pool.submit(hub.fetch, name): name for name in names.values()}
        try:
            for finished in as_completed(coming):
                folder = finished.result().parent.parent
                done += hub.sizes[coming[finished]]
                if progress is not None:
                    progress(done, total)
        except BaseException as error:
            # Who interrupts does not wait for answers that a server may never send.
            pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        pool.shutdown()
        assert folder is not None
        return Fetched(folder, hub.repository, hub.commit, len(names), total)


def _has_checkpoint(hub: HubCommit) -> bool:
    return any(PurePosixPath(name).parent == PurePosixPath("ckpt-0") for name in hub.sizes)


def _layout(hub: HubCommit) -> Checkpoint:
    """Which file holds what: by the repository's config.json, else as in Grok-1."""
    config = GROK_1
    if CONFIG in hub.sizes:
        if hub.sizes[CONFIG] > MOST_CONFIG:
            raise LensError(
                f"{hub.repository}: {CONFIG} has {hub.sizes[CONFIG]:,} bytes; expected at most "
                f"{MOST_CONFIG:,}."
            )
        try:
            config = read_config(hub.fetch(CONFIG))
        except GrokError as error:
            raise LensError(f"{hub.repository}: {error}") from error
    return Checkpoint(Path(hub.repository), Path("ckpt-0"), config)


def _check_sizes(hub: HubCommit, checkpoint: Checkpoint, names: dict[str, str]) -> None:
    """Refuses files that are missing or cannot be what they should, before any is fetched."""
    missing = [name for name in names.values() if name not in hub.sizes]
    if missing:
        raise LensError(
            f"{hub.repository} at {hub.commit[:12]}: {len(missing)} of {len(names)} router and "
            f"norm files are not there, the first is {missing[0]}. Choose another revision."
        )
    kinds = {
        path: "router" if path == router_path(layer) else "norm"
        for layer in range(checkpoint.config.n_layers)
        for path in (router_path(layer), moe_norm_path(layer))
    }
    for path, name in names.items():
        size = hub.sizes[name]
        wanted = GROK_1_SIZES[kinds[path]] if checkpoint.config == GROK_1 else None
        if (wanted is not None and size != wanted) or not 0 < size <= MOST_FILE:
            expected = f"{wanted:,}" if wanted is not None else f"1 to {MOST_FILE:,}"
            raise LensError(
                f"{hub.repository}: {name} ({path}) has {size:,} bytes there; expected {expected}. "
                "This is no router of the model; nothing was fetched."
            )


def shown(done: int, total: int) -> str:
    """Progress of a download, for people: bytes of files, or tensors where ranges are read."""
    if total < 10_000:
        return f"{done} of {total} tensors"
    return f"{fixed(done / 1e6, 1)} of {fixed(total / 1e6, 1)} MB"
