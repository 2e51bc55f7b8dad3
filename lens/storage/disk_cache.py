"""Results kept on disk, named by the hash of everything they depend on.

An entry is an `.npz` without pickles, read by `lens.storage.npz`, which executes nothing.
An entry that is cut short, altered or of another origin is dropped, and what it
held is computed again. Entries are written beside their place and moved there, so
that two programs may share the folder. Where it cannot be written everything works
as before, only without memory; `problem` says so.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from grok.files import CACHE_VARIABLE, cache_folder
from lens.errors import LensError
from lens.storage import npz
from lens.storage.whole_file import whole_file

MAX_BYTES = 2**30
MAX_ENTRY = npz.MAX_BYTES  # what a router file may hold
PART_LIFE = 24 * 3600  # seconds
FORMAT_VERSION = 1
_KEY = "cache_key"
_ENTRY = re.compile(r"[a-z][a-z0-9_]{0,31}-[0-9a-f]{64}\.npz")
_PART = re.compile(r"\.entry_[a-z0-9_]+\.part")
_ADVICE = "It is computed again."


def content_key(*parts: object) -> str:
    """SHA-256 of the texts of all parts, each with its length, so that none runs into the next."""
    digest = hashlib.sha256()
    for part in (FORMAT_VERSION, *parts):
        text = str(part).encode()
        digest.update(f"{len(text)}:".encode() + text)
    return digest.hexdigest()


class _TooLarge(Exception):
    """An entry is larger than one may be."""


class DiskCache:
    """Arrays by kind and key, in one folder of bounded size; the least used goes first.

    Attributes:
        folder: where; made when the first entry is written.
        problem: why nothing could be kept, for people; None as long as all went well.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = cache_folder() if folder is None else Path(folder)
        self.max_bytes = max_bytes
        self.problem: str | None = None

    def get(self, kind: str, key: str) -> dict[str, np.ndarray] | None:
        """The arrays kept under this key, or None; an unusable entry is dropped."""
        path = self._path(kind, key)
        try:
            if path.is_symlink() or not path.is_file():
                return None
        except OSError:  # the folder cannot be looked into
            return None
        try:
            with npz.open_npz(path, max_bytes=MAX_ENTRY) as entry:
                if entry.scalar(_KEY, "U", _ADVICE) != f"{kind}:{key}":
                    raise LensError("an entry of another key")
                arrays = {
                    name: entry.array(name, _ADVICE) for name in entry.members if name != _KEY
                }
        except LensError:
            self.drop(kind, key)
            return None
        try:
            os.utime(path)  # read now: the last to go
        except OSError:
            pass
        return arrays

    def put(self, kind: str, key: str, arrays: Mapping[str, Any]) -> bool:
        """Keep arrays under a key; False, with `problem` set, where that could not be done."""
        path = self._path(kind, key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with whole_file(path, prefix=".entry_") as file:
                np.savez(file, allow_pickle=False, **{_KEY: np.str_(f"{kind}:{key}"), **arrays})
                if file.tell() > min(self.max_bytes, MAX_ENTRY):
                    raise _TooLarge
            self._make_room()
        except _TooLarge:
            return False
        except OSError as error:
            self.problem = (
                f"{self.folder}: results cannot be kept here ({error.strerror or error}), so they "
                f"are computed again each time. Name another folder in {CACHE_VARIABLE}."
            )
            return False
        return True

    def drop(self, kind: str, key: str) -> None:
        """Forget one entry."""
        try:
            self._path(kind, key).unlink(missing_ok=True)
        except OSError:
            pass

    def known_sha256(self, *identity: object) -> str | None:
        """The content hash noted for a file of this identity (path, size, times, inode)."""
        found = self.get("file", content_key(*identity))
        text = None if found is None else found.get("sha256")
        if text is None or text.shape != () or text.dtype.kind != "U":
            return None
        return str(text) if re.fullmatch(r"[0-9a-f]{64}", str(text)) else None

    def note_sha256(self, sha256: str, *identity: object) -> bool:
        """Note a file's content hash, so that it need not be read to know it again."""
        return self.put("file", content_key(*identity), {"sha256": np.str_(sha256)})

    def _path(self, kind: str, key: str) -> Path:
        name = f"{kind}-{key}.npz"
        if not _ENTRY.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an entry; expected a word and a SHA-256")
        return self.folder / name

    def _make_room(self) -> None:
        """Remove the entries used longest ago until the rest fits; other files stay."""
        entries = []
        for entry in os.scandir(self.folder):
            if _PART.fullmatch(entry.name):  # of a program that was ended while it wrote
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > PART_LIFE:
                    Path(entry.path).unlink(missing_ok=True)
            if _ENTRY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                entries.append((found.st_mtime_ns, entry.name, found.st_size))
        total = sum(size for _, _, size in entries)
        for _, name, size in sorted(entries):
            if total <= self.max_bytes:
                break
            (self.folder / name).unlink(missing_ok=True)
            total -= size
