"""A file that one process or thread holds at a time; the system lets go when the holder ends."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType


class FileLock:
    """Held from the first successful `take` until `release` or the end of the process.

    Two locks on one file exclude each other, in one process as well as in two.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._handle: int | None = None

    def take(self, *, patience: float = 0.0, shared: bool = False) -> bool:
        """Take it; False where somebody else has it.

        Args:
            patience: seconds to try for; those who only look hold it for an instant.
            shared: together with others who share it; enough to see whether it is held.

        Raises:
            OSError: the file cannot be opened or made.
        """
        if self._handle is not None:
            return True
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        until = time.monotonic() + patience
        while not _lock(handle, shared):
            if time.monotonic() >= until:
                os.close(handle)
                return False
            time.sleep(0.01)
        self._handle = handle
        return True

    def release(self) -> None:
        """Let go; nothing happens where it is not held."""
        if self._handle is not None:
            os.close(self._handle)  # the system unlocks what is closed
            self._handle = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def is_held(path: str | os.PathLike[str]) -> bool:
    """True where somebody holds the lock on this file; False where there is no such file."""
    if not Path(path).is_file():
        return False
    with FileLock(path) as lock:
        try:
            return not lock.take(shared=True)
        except OSError:
            return False


def _lock(handle: int, shared: bool) -> bool:
    """A lock on an open file, if it can be had at once."""
    try:
        import fcntl
    except ImportError:
        return _lock_windows(handle)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_windows(handle: int) -> bool:
    import msvcrt

    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True
