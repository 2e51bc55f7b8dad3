"""A disk of half a megabyte that can be filled and made read-only."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = 512 * 1024


class SmallDisk:
    """A folder on a disk of its own where this user may mount one, else with limits like its.

    Attributes:
        folder: to write to.
        mounted: whether it is a disk of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "faults", str(folder)]
        try:
            self.mounted = (
                os.geteuid() == 0
                and not subprocess.run(options, capture_output=True, timeout=60).returncode
            )
        except OSError:
            self.mounted = False

    @contextmanager
    def full(self) -> Iterator[None]:
        """No byte more can be written."""
        if not self.mounted:  # as good: every write of a byte fails, with another number
            old = resource.getrlimit(resource.RLIMIT_FSIZE)
            ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, old[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, old)
                signal.signal(signal.SIGXFSZ, ignored)
            return
        filler = os.open(self.folder / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            for size in (65536, 4096, 1):
                try:
                    while os.write(filler, b"x" * size):
                        pass
                except OSError:
                    pass
            yield
        finally:
            os.close(filler)
            (self.folder / "filler").unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be written, made or removed."""
        if not self.mounted and os.geteuid() == 0:
            pytest.skip("root writes to every folder, and no disk can be mounted here")
        self._set("ro", 0o555)
        try:
            yield
        finally:
            self._set("rw", 0o755)

    def _set(self, option: str, mode: int) -> None:
        if self.mounted:
            remount = ["mount", "-o", f"remount,{option}", str(self.folder)]
            subprocess.run(remount, check=True, timeout=60)
            return
        for folder, _, _ in os.walk(self.folder):
            os.chmod(folder, mode)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True, timeout=60)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path_factory.mktemp("disk"))
    yield made
    made.close()
