"""The files of a model, wherever they are: a folder here, or anything that serves byte ranges."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from grok.checkpoints.safetensors import ByteRanges, FileRanges
from grok.errors import CheckpointError, plain

CONFIG = "config.json"
MAX_FILES = 10_000


class ModelFiles(Protocol):
    """What extraction needs of a place that holds a model."""

    @property
    def where(self) -> str:
        """The place, for messages."""
        ...

    @property
    def name(self) -> str:
        """What to call the model where its config does not say."""
        ...

    @property
    def at_once(self) -> int:
        """Reads that are worth having under way at a time: 1 on a disk, more over a network."""
        ...

    def names(self) -> Sequence[str]:
        """The files there are."""
        ...

    def open(self, name: str) -> ByteRanges:
        """One of them; a `CheckpointError` where it cannot be had."""
        ...


class FolderFiles:
    """The files directly in a folder, or one of them with the `config.json` beside it.

    Links are followed to files of the folder itself, and from a snapshot of the Hugging
    Face cache to its blobs, but nowhere else: a folder from a stranger reads nothing of
    this machine's. A file that was named by its own path may be a link to anywhere.
    """

    at_once = 1

    def __init__(self, path: Path) -> None:
        self.only = path.name if path.is_file() else None
        if self.only is None and not path.is_dir():
            raise CheckpointError(f"{path}: there is no such file or folder. Check the path.")
        self.folder = path if self.only is None else path.parent
        self.where = str(path)
        self.name = self.folder.resolve().name
        inside = self.folder.resolve()
        self._allowed = [inside]
        if inside.parent.name == "snapshots":
            self._allowed.append(inside.parent.parent / "blobs")

    def names(self) -> list[str]:
        if self.only is not None:
            return [self.only] + [CONFIG] * (self.folder / CONFIG).is_file()
        try:
            names = sorted(path.name for path in self.folder.iterdir() if path.is_file())
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: {error.strerror}. Check its permissions."
            ) from error
        if len(names) > MAX_FILES:
            raise CheckpointError(
                f"{self.folder}: {len(names)} files; expected at most {MAX_FILES}. Choose the "
                "folder of one model."
            )
        return names

    def open(self, name: str) -> FileRanges:
        path = self.folder / name
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: it cannot be read. Check its permissions.") from error
        if name != self.only and real.parent not in self._allowed:
            raise CheckpointError(
                f"{self.folder}: {plain(name, 80)} is a link that leads out of the folder; "
                "expected a file in it. Put a copy there."
            )
        return FileRanges(path)


class Counted:
    """A model's files, with the bytes that were read of them."""

    def __init__(self, files: ModelFiles) -> None:
        self.files = files
        self.where = files.where
        self.name = files.name
        self.at_once = files.at_once
        self.bytes_read = 0
        self._counting = threading.Lock()

    def count(self, n_bytes: int) -> None:
        """Adds bytes that were read, by whatever thread."""
        with self._counting:
            self.bytes_read += n_bytes

    def names(self) -> Sequence[str]:
        return self.files.names()

    def open(self, name: str) -> ByteRanges:
        return _CountedRanges(self.files.open(name), self)


class _CountedRanges:
    def __init__(self, source: ByteRanges, total: Counted) -> None:
        self.source = source
        self.total = total
        self.where = source.where
        self.size = source.size

    def read(self, offset: int, length: int) -> bytes:
        found = self.source.read(offset, length)
        self.total.count(len(found))
        return found


def folder_identity(folder: str | os.PathLike[str]) -> str:
    """A hash of what tells that a model's files are still those they were; reads none of them.

    It changes with the names, sizes, times and places of the files in the folder and in its
    `ckpt-0`; empty where there is no such folder any more.
    """
    digest = hashlib.sha256()
    for place in (Path(folder), Path(folder) / "ckpt-0"):
        try:
            with os.scandir(place) as entries:
                files = sorted((entry for entry in entries), key=lambda entry: entry.name)
                for entry in files:
                    if entry.is_file():
                        found = entry.stat()
                        told = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
                        digest.update(f"{entry.name}|{told}|".encode("utf-8", "surrogateescape"))
        except OSError:
            if place == Path(folder):
                return ""
    return digest.hexdigest()
