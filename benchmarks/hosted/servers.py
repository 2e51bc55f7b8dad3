"""The processes of a hosted app: web processes, and one that holds the model for several."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180.0  # seconds that a process may take to be ready
EVERY = 0.5  # seconds between two looks at memory and descriptors


@dataclass
class Hosted:
    """A hosted app that is ready.

    Attributes:
        addresses: of its web processes.
        processes: that were started, by name; a model's server has a child of its own.
        log: of all of them.
    """

    addresses: list[str]
    processes: Mapping[str, subprocess.Popen[bytes]]
    log: Path

    def pids(self) -> dict[str, int]:
        """All process ids, by name."""
        found = {name: process.pid for name, process in self.processes.items()}
        for name, pid in list(found.items()):
            for child in _children(pid):
                found[f"{name}'s child {child}"] = child
        return found

    def memory(self) -> int:
        """Bytes that all processes hold, what they share counted once."""
        return sum(_memory(pid) for pid in self.pids().values())

    def descriptors(self) -> int:
        """Open files and sockets of all processes."""
        return sum(_descriptors(pid) for pid in self.pids().values())

    def processor(self) -> float:
        """Seconds that all processes have worked."""
        return sum(_processor(pid) for pid in self.pids().values())


@dataclass
class Watched:
    """What was seen of a hosted app while it was used.

    Attributes:
        memory: bytes, one number for each look.
        descriptors: the same.
    """

    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


@contextmanager
def watched(hosted: Hosted, every: float = EVERY) -> Iterator[Watched]:
    """Looks at memory and descriptors now and then, for the time of the block."""
    seen, ended = Watched(), threading.Event()

    def look() -> None:
        while not ended.wait(every):
            seen.memory.append(hosted.memory())
            seen.descriptors.append(hosted.descriptors())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        seen.memory.append(hosted.memory())
        seen.descriptors.append(hosted.descriptors())


@contextmanager
def hosted(n_web: int, checkpoint: Path | None = None) -> Iterator[Hosted]:
    """An app of so many web processes: one holds the model itself, several share a server's.

    Raises:
        RuntimeError: a process ended, or was not ready in time; with its last words.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith("GROK_LENS_")}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = folder / "log.txt"
        output = stack.enter_context(log.open("wb"))
        own["GROK_LENS_LOG"] = "json"  # as a team has it
        own |= {name: str(folder / name) for name in ("GROK_LENS_RUNS", "GROK_LENS_NOTES")}
        processes: dict[str, subprocess.Popen[bytes]] = {}

        def start(name: str, command: Sequence[str], more: Mapping[str, str]) -> None:
            processes[name] = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={**own, **more},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            stack.callback(_end, processes[name])

        settings: dict[str, str] = {}
        given = [] if checkpoint is None else ["--checkpoint", str(checkpoint.resolve())]
        if n_web > 1:
            port = _free_port()
            settings = {
                "GROK_LENS_MODEL_URL": f"http://127.0.0.1:{port}",
                "GROK_LENS_MODEL_TOKEN": secrets.token_hex(16),
            }
            start("model", ["-m", "grok.serve", "--port", str(port), *given], settings)
        addresses = []
        for number in range(n_web):
            port = _free_port()
            command = ["-m", "streamlit", "run", "app.py", "--server.port", str(port)]
            command += ["--server.address", "127.0.0.1", "--server.headless", "true", "--", *given]
            start(f"web {number + 1}", command, settings)
            addresses.append(f"127.0.0.1:{port}")
        if settings:
            _wait(f"{settings['GROK_LENS_MODEL_URL']}/readyz", processes["model"], log)
        for number, address in enumerate(addresses):
            _wait(f"http://{address}/_stcore/health", processes[f"web {number + 1}"], log)
        yield Hosted(addresses, processes, log)


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"A process was not ready: {log.read_text(errors='replace')[-500:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(one) for task in tasks for one in (task / "children").read_text().split()]
    except OSError:  # it has just ended, or this system doesn't tell
        return []


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _processor(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
