"""The report, made in a process of its own that can be ended, one for all visitors at a time.

It is the command that anybody can run, `python -m lens.report`, so that both give the same files. A
report that is done is kept for whoever asks for the same, until the program ends.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from grok.serving.jobs import Job, Jobs
from lens.errors import LensError
from lens.report.parts import Settings
from lens.report.write import PAGE
from lens.routers.router_set import RouterSet, save_routers

ROOT = Path(__file__).resolve().parents[2]
KEPT = 8  # reports
LONGEST = 3600.0  # seconds
PAUSE = 0.2  # seconds between two looks at the process
_LINE = re.compile(r"\[(\d+)/(\d+)\] (\S+)")

Key = tuple[Hashable, ...]


@dataclass(frozen=True)
class Order:
    """A report that is asked for.

    Attributes:
        routers: the set.
        settings: view, metric, draws and seeds.
        checkpoint: of these routers, which adds what experts listen to; None where none is there.
    """

    routers: RouterSet
    settings: Settings
    checkpoint: str | None = None

    @property
    def key(self) -> Key:
        """All that the report depends on."""
        return self.routers.key, self.routers.source, self.settings, self.checkpoint


@dataclass(frozen=True)
class Made:
    """A report that is done: its files together, and its page that opens offline."""

    archive: Path
    page: Path


class Reports:
    """The reports of a process, made and being made."""

    def __init__(self) -> None:
        self.jobs = Jobs(at_once=1, most=8, most_of_one=1).close_at_exit()
        self._folder = tempfile.mkdtemp(prefix="grok-lens-reports-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # at the end, too
        self._made: OrderedDict[Key, Made] = OrderedDict()
        self._lock = threading.Lock()

    def made(self, order: Order) -> Made | None:
        """The report, if it is done, and nobody has cleared the folder of temporary files."""
        with self._lock:
            made = self._made.get(order.key)
            if made is not None and not (made.archive.is_file() and made.page.is_file()):
                del self._made[order.key]
                return None
            return made

    def start(self, order: Order, group: Hashable) -> Job:
        """Begin a report for somebody.

        Raises:
            BusyError: too many are asked for.
        """
        return self.jobs.start((order.key, group), lambda job: self._make(job, order), group=group)

    def _make(self, job: Job, order: Order) -> None:
        if self.made(order) is not None:  # somebody else asked for the same
            return
        try:
            made = self._written(job, order)
        except OSError as error:
            raise LensError(
                f"The report cannot be written on this server ({error.strerror or error}). Try "
                "again when there is room in its folder for temporary files."
            ) from error
        with self._lock:
            self._made[order.key] = made
            while len(self._made) > KEPT:
                _, old = self._made.popitem(last=False)
                shutil.rmtree(old.archive.parent, ignore_errors=True)

    def _written(self, job: Job, order: Order) -> Made:
        Path(self._folder).mkdir(mode=0o700, exist_ok=True)  # a cleaner may have taken it
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as work:
            folder = Path(work)
            save_routers(order.routers, folder / "routers.npz")
            _run(job, order, folder)
            kept = Path(tempfile.mkdtemp(dir=self._folder))
            made = Made(kept / "report.zip", kept / PAGE)
            with zipfile.ZipFile(made.archive, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted((folder / "report").iterdir()):
                    archive.write(file, f"report/{file.name}")
            shutil.move(folder / "report" / PAGE, made.page)
            return made


def _run(job: Job, order: Order, folder: Path) -> None:
    """The command, until it ends, is asked to end, or takes too long."""
    command = [sys.executable, "-m", "lens.report", "--progress", "0.3"]
    command += ["--input", str(folder / "routers.npz"), "--output-dir", str(folder / "report")]
    command += order.settings.options
    if order.checkpoint is not None:
        command += ["--checkpoint", str(Path(order.checkpoint).resolve())]
    nice = shutil.which("nice")  # pages come before reports
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    log = folder / "log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [*([nice] if nice else []), *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=told,
        )
    until = time.monotonic() + LONGEST
    try:
        while process.poll() is None:
            seen = _LINE.findall(log.read_text(encoding="utf-8", errors="replace"))
            if seen:
                job.detail = seen[-1][2].replace("_", " ")
                job.progress(int(seen[-1][0]) - 1, int(seen[-1][1]))
            job.check()
            if time.monotonic() > until:
                raise LensError("The report took more than an hour and was ended.")
            time.sleep(PAUSE)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise LensError(said[-1] if said else f"lens.report ended with {process.returncode}.")
