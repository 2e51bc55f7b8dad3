"""One commit of a repository on the Hugging Face Hub: its files, and what its answers mean.

Where a token is needed it comes from the environment (HF_TOKEN) alone, and HF_ENDPOINT names
another server. Where HF_HUB_OFFLINE forbids the network, the cache stands in for the server.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grok.errors import CheckpointError, GrokError, plain

ENDPOINT, TOKEN, OFFLINE = "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"
AGAIN = "What was fetched is kept; run it again to go on."
MAIN = "main"  # the branch that is meant where none is named
TIMEOUT = 20.0  # seconds without an answer

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


class HubCommit:
    """One commit of a repository: its files with their sizes, and the way to fetch one.

    Attributes:
      commit: the revision, resolved.
      sizes: bytes of each file by its name.
      offline: whether these are the files in the cache, and the server is not asked.
    """

    offline = False

    def __init__(self, repository: str, revision: str) -> None:
        from huggingface_hub import HfApi, errors

        self.repository = repository
        # False, not None: a token that was saved on this machine is not sent either.
        self.options: dict[str, Any] = {
            "token": os.environ.get(TOKEN) or False,
            "endpoint": os.environ.get(ENDPOINT) or None,
        }
        try:
            info = HfApi(**self.options).model_info(
                repository, revision=revision, files_metadata=True, timeout=TIMEOUT
            )
            sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Whatever stands between us and the Hub answered 200 with something else.
            if isinstance(error, OSError | errors.HFValidationError) or is_transport(error):
                raise
            raise CheckpointError(
                f"{repository}: the answer is no listing of files, so it is not the Hub's. Check "
                f"{ENDPOINT}, and whether a login page or a proxy stands before the network."
            ) from error
        if not info.sha or not _COMMIT.fullmatch(info.sha):
            raise CheckpointError(
                f"{repository}: the server names no commit for {plain(revision, 40)}; expected 40 "
                "hexadecimal digits. Try again, or another server."
            )
        self.commit = info.sha
        self.sizes = sizes

    def fetch(self, name: str) -> Path:
        """The file in the cache, fetched if it is not there, of exactly its size."""
        from huggingface_hub import hf_hub_download

        path = Path(
            hf_hub_download(
                self.repository, name, revision=self.commit, tqdm_class=_quiet(), **self.options
            )
        )
        found = path.stat().st_size
        if found != self.sizes[name]:
            path.unlink(missing_ok=True)
            raise CheckpointError(
                f"{self.repository}: {name} came with {found:,} bytes; expected "
                f"{self.sizes[name]:,}. It was dropped. {AGAIN}"
            )
        return path


class CachedCommit(HubCommit):
    """The files of a commit that earlier runs left in the cache; the network is not used."""

    offline = True

    def __init__(self, repository: str, commit: str, folder: Path) -> None:
        self.repository, self.commit, self.folder = repository, commit, folder
        self.options = {}
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}

    def fetch(self, name: str) -> Path:
        """The file in the cache."""
        return self.folder / name


def commit_of(repository: str, revision: str) -> HubCommit:
    """A commit as the server lists it, or as the cache has it where the network is forbidden.

    Raises:
      CheckpointError: the server's listing makes no sense; and what `explained` explains.
    """
    from huggingface_hub import errors

    _check_name(repository)
    try:
        return HubCommit(repository, revision)
    except errors.OfflineModeIsEnabled:
        folder = _in_cache(repository, revision)
        if folder is None:
            raise
        return CachedCommit(repository, folder.name, folder)


def _in_cache(repository: str, revision: str) -> Path | None:
    """The folder of a revision that was fetched before: None if there is none."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    place = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    folders = place / "snapshots"
    if not _COMMIT.fullmatch(revision):
        branch = revision
        try:
            known = {str(f.relative_to(place / "refs")): f for f in (place / "refs").rglob("*")}
            revision = known[revision].read_text().strip() if revision in known else ""
        except OSError:
            revision = ""
        if not revision and branch == MAIN and folders.is_dir():
            # Files are fetched by their commit, which leaves no name behind: the one there is.
            there = [f.name for f in folders.iterdir() if _COMMIT.fullmatch(f.name)]
            revision = there[0] if len(there) == 1 else ""
    folder = folders / revision
    return folder if _COMMIT.fullmatch(revision) and folder.is_dir() else None


def _quiet() -> type:
    """A progress bar that shows nothing; the caller's own progress tells all there is."""
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):
        monitor_interval = 0  # else each class has a thread that looks after its bars, for ever

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

    return Quiet


def _check_name(repository: str) -> None:
    if not _REPOSITORY.fullmatch(repository):
        raise _no_name(repository)


def _no_name(repository: str) -> CheckpointError:
    return CheckpointError(
        f"{plain(repository, 60)!r}: expected a repository as OWNER/NAME, such as xai-org/grok-1."
    )


def is_transport(error: BaseException) -> bool:
    """Whether the connection failed, rather than that the server refused."""
    from huggingface_hub.utils import HfHubHTTPError

    package = type(error).__module__.split(".")[0]
    return package in _TRANSPORTS and not isinstance(error, HfHubHTTPError)


@contextmanager
def explained(repository: str, revision: str) -> Iterator[None]:
    """Turns what the network and the Hub say into errors for people.

    Raises:
      CheckpointError: the name is none of a repository, or the server refuses.
    """
    _check_name(repository)
    from huggingface_hub import errors
    from huggingface_hub.utils import HfHubHTTPError

    at = f"{repository} at {plain(revision, 40)}"
    try:
        yield
    except GrokError:
        raise
    except errors.HFValidationError as error:
        raise _no_name(repository) from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{at}: access has to be asked for on its page. Then set {TOKEN} in the environment."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{at}: there is no such repository, or it is private. Check the name; for a private "
            f"one set {TOKEN} in the environment."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{at}: there is no such revision. Give a branch, tag or commit."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise CheckpointError(
            f"{at}: the environment forbids the network ({OFFLINE}), and the cache does not have "
            "it. Unset it, or copy the files by hand; see docs/routers.md, 'Routers of Grok-1'."
        ) from error
    except errors.LocalEntryNotFoundError as error:  # asking the server failed; the cause says why
        raise CheckpointError(f"{at}: {answered(error.__cause__ or error)}") from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(f"{at}: a file that was listed is not there. {AGAIN}") from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"{at}: {answered(error)}") from error
    except OSError as error:
        raise CheckpointError(f"{at}: {_local(error)}") from error
    except Exception as error:
        if not is_transport(error):
            raise
        raise CheckpointError(f"{at}: {_unreached(error)}") from error


def answered(error: BaseException) -> str:
    """What a server's refusal, or its silence, means."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return _unreached(error)
    if status in (401, 403):
        return f"the server answered {status}. Set {TOKEN} in the environment."
    wait = "It is busy; wait a while. " if status == 429 or status >= 500 else ""
    return f"the server answered {status}. {wait}{AGAIN}"


def _unreached(error: BaseException) -> str:
    return f"{_short(error)}. Check the connection. {AGAIN}"


def _local(error: OSError) -> str:
    """What is wrong with the cache's disk, or with the connection if the disk is well."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of the cache is full. Free space, or set HF_HOME to another disk. {AGAIN}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            "the folder of the cache cannot be written. Set HF_HOME to one that can; expected "
            "room for 15 MB."
        )
    return _unreached(error)


def _short(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return plain(text, 120).rstrip(".")
