"""Routers straight from the Hugging Face Hub: the few files of a checkpoint that hold them.

Of Grok-1's 770 files the 64 routers and the 64 norms before them are fetched, 14.2 MB of
318 GB, into the Hub's own cache; a download that was cut goes on where it stopped, and one
that is complete is not repeated. Sizes are checked before anything is read. Where a token is
needed it comes from the environment (HF_TOKEN) alone, and HF_ENDPOINT names another server.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from grok.checkpoint import Checkpoint, moe_norm_path, router_path
from grok.config import GROK_1, read_config
from grok.errors import GrokError
from lens.errors import LensError
from lens.extract import extract_routers, needed_paths
from lens.model_files import CONFIG
from lens.npz import plain
from lens.routers import RouterSet

GROK_1_REPOSITORY = "xai-org/grok-1"
# Bytes of Grok-1's own files.
GROK_1_SIZES = {"router": 196_770, "norm": 24_727}
MOST_FILE = 64 * 2**20  # bytes; no router of a model that this project reads is larger
MOST_CONFIG = 2**20
AT_ONCE = 8
ENDPOINT, TOKEN = "HF_ENDPOINT", "HF_TOKEN"
AGAIN = "What was fetched is kept; run it again to go on."

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")

Progress = Callable[[int, int], None]
"""Called with the bytes fetched or found in the cache so far, and the bytes there are to have."""


@dataclass(frozen=True)
class Fetched:
    """Files of a checkpoint in the cache.

    Attributes:
      folder: holds `ckpt-0`, of which only these files are there.
      repository, revision: where they are from; the revision is a commit.
      n_files: how many.
      n_bytes: their bytes.
    """

    folder: Path
    repository: str
    revision: str
    n_files: int
    n_bytes: int


def extract_from_hub(
    repository: str = GROK_1_REPOSITORY,
    *,
    revision: str = "main",
    norms: bool = True,
    progress: Progress | None = None,
) -> tuple[RouterSet, Fetched]:
    """The routers of a checkpoint in Grok-1's format on the Hub.

    Args:
      repository: "owner/name".
      revision: a branch, tag or commit.
      norms: whether to fetch the norm scales too (14.2 instead of 12.6 MB of Grok-1).
      progress: told in bytes.

    Returns:
      The router set, whose source names the repository and the commit, and what was fetched.

    Raises:
      LensError: no connection, no such repository, revision or file, no permission, files of
        another size than expected, a full disk, or what extraction refuses.
    """
    fetched = fetch_routers(repository, revision=revision, norms=norms, progress=progress)
    routers = extract_routers(fetched.folder, norms=norms)
    source = f"{fetched.repository} at {fetched.revision[:12]}"
    return replace(routers, source=source), fetched


def fetch_routers(
    repository: str = GROK_1_REPOSITORY,
    *,
    revision: str = "main",
    norms: bool = True,
    progress: Progress | None = None,
) -> Fetched:
    """Fetches the router files of a checkpoint, and its norms, into the Hub's cache.

    Raises:
      LensError: see `extract_from_hub`.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise LensError(
            f"{plain(repository, 60)!r}: expected a repository as OWNER/NAME, such as "
            f"{GROK_1_REPOSITORY}."
        )
    with _explained(repository, revision):
        hub = _Hub(repository, revision)
        checkpoint = _layout(hub)
        paths = needed_paths(checkpoint, norms)
        names = {path: f"ckpt-0/{checkpoint.file(path).name}" for path in paths}
        _check_sizes(hub, checkpoint, names)
        total = sum(hub.sizes[name] for name in names.values())
        done = 0
        folder: Path | None = None
        with ThreadPoolExecutor(AT_ONCE) as pool:
            coming = {pool.submit(hub.fetch, name): name for name in names.values()}
            try:
                for finished in as_completed(coming):
                    folder = finished.result().parent.parent
                    done += hub.sizes[coming[finished]]
                    if progress is not None:
                        progress(done, total)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        assert folder is not None
        return Fetched(folder, repository, hub.commit, len(names), total)


class _Hub:
    """One commit of a repository: its files with their sizes, and the way to fetch one.

    Attributes:
      commit: the revision, resolved.
      sizes: bytes of each file by its name.
    """

    def __init__(self, repository: str, revision: str) -> None:
        from huggingface_hub import HfApi

        self.repository = repository
        # False, not None: a token that was saved on this machine is not sent either.
        self.options: dict[str, Any] = {
            "token": os.environ.get(TOKEN) or False,
            "endpoint": os.environ.get(ENDPOINT) or None,
        }
        info = HfApi(**self.options).model_info(
            repository, revision=revision, files_metadata=True, timeout=20
        )
        if not info.sha or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
            raise LensError(
                f"{repository}: the server names no commit for {plain(revision, 40)}; expected 40 "
                "hexadecimal digits. Try again, or another server."
            )
        self.commit = info.sha
        self.sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}

    def fetch(self, name: str) -> Path:
        """The file in the cache, fetched if it is not there, of exactly its size."""
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(self.repository, name, revision=self.commit, **self.options))
        found = path.stat().st_size
        if found != self.sizes[name]:
            path.unlink(missing_ok=True)
            raise LensError(
                f"{self.repository}: {name} came with {found:,} bytes; expected "
                f"{self.sizes[name]:,}. It was dropped. {AGAIN}"
            )
        return path


def _layout(hub: _Hub) -> Checkpoint:
    """Which file holds what: by the repository's config.json, else as in Grok-1."""
    if not any(PurePosixPath(name).parent.name == "ckpt-0" for name in hub.sizes):
        raise LensError(
            f"{hub.repository}: there is no ckpt-0 in it; expected a checkpoint in Grok-1's "
            "format. Of a model in safetensors files fetch the files and use --safetensors."
        )
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


def _check_sizes(hub: _Hub, checkpoint: Checkpoint, names: dict[str, str]) -> None:
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


@contextmanager
def _explained(repository: str, revision: str) -> Iterator[None]:
    """Turns what the network and the Hub say into errors for people."""
    from huggingface_hub import errors
    from huggingface_hub.utils import HfHubHTTPError

    at = f"{repository} at {plain(revision, 40)}"
    try:
        yield
    except LensError:
        raise
    except errors.GatedRepoError as error:
        raise LensError(
            f"{at}: access has to be asked for on its page. Then set {TOKEN} in the environment."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise LensError(
            f"{at}: there is no such repository, or it is private. Check the name; for a private "
            f"one set {TOKEN} in the environment."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise LensError(
            f"{at}: there is no such revision. Give a branch, tag or commit."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise LensError(
            f"{at}: the environment forbids the network (HF_HUB_OFFLINE). Unset it, or copy the "
            "files by hand; see README, 'Look at Grok-1's own routers'."
        ) from error
    except errors.LocalEntryNotFoundError as error:  # asking the server failed; the cause says why
        raise LensError(f"{at}: {_answered(error.__cause__ or error)}") from error
    except errors.EntryNotFoundError as error:
        raise LensError(f"{at}: a file that was listed is not there. {AGAIN}") from error
    except HfHubHTTPError as error:
        raise LensError(f"{at}: {_answered(error)}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LensError(
                f"{at}: the disk of the cache is full. Free space, or set HF_HOME to another disk. "
                f"{AGAIN}"
            ) from error
        raise LensError(f"{at}: {_short(error)}. Check the connection. {AGAIN}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "requests", "urllib3"):
            raise
        raise LensError(f"{at}: {_short(error)}. Check the connection. {AGAIN}") from error


def _answered(error: BaseException) -> str:
    """What a server's refusal, or its silence, means."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return f"{_short(error)}. Check the connection. {AGAIN}"
    hint = f"Set {TOKEN} in the environment." if status in (401, 403) else AGAIN
    return f"the server answered {status}. {hint}"


def _short(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return plain(text, 120).rstrip(".")


def shown(done: int, total: int) -> str:
    """How far a download is, for people."""
    return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB"
