"""One commit of a repository on the Hugging Face Hub: its files, and what its answers mean.

Where a token is needed it comes from the environment (HF_TOKEN) alone, and HF_ENDPOINT names
another server.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lens.errors import LensError
from lens.npz import plain

ENDPOINT, TOKEN = "HF_ENDPOINT", "HF_TOKEN"
AGAIN = "What was fetched is kept; run it again to go on."
TIMEOUT = 20.0  # seconds without an answer

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")


class HubCommit:
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
            repository, revision=revision, files_metadata=True, timeout=TIMEOUT
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


@contextmanager
def explained(repository: str, revision: str) -> Iterator[None]:
    """Turns what the network and the Hub say into errors for people.

    Raises:
      LensError: the name is none of a repository, or the server refuses.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise LensError(
            f"{plain(repository, 60)!r}: expected a repository as OWNER/NAME, such as "
            "xai-org/grok-1."
        )
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
        raise LensError(f"{at}: {answered(error.__cause__ or error)}") from error
    except errors.EntryNotFoundError as error:
        raise LensError(f"{at}: a file that was listed is not there. {AGAIN}") from error
    except HfHubHTTPError as error:
        raise LensError(f"{at}: {answered(error)}") from error
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


def answered(error: BaseException) -> str:
    """What a server's refusal, or its silence, means."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return f"{_short(error)}. Check the connection. {AGAIN}"
    hint = f"Set {TOKEN} in the environment." if status in (401, 403) else AGAIN
    return f"the server answered {status}. {hint}"


def _short(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return plain(text, 120).rstrip(".")
