"""Programs compiled once for all processes, an order of the files, a Hub for tests of downloads."""

from __future__ import annotations

import gc
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test may fail because the machine is slow.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Before JAX is imported here or in a process that a test starts. A program that one test
# has compiled is read by the other worker, by a server, by an example and by the next run.
COMPILED = Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Numbers do not depend on which way of multiplying was fastest.
os.environ.setdefault("GROK_LENS_PRODUCTS", "off")
# Tracing a program makes so many objects that cycles were looked for all the time.
gc.set_threshold(50_000, 20, 50)

# The longest files by the processor seconds that they take; all others come after them.
LONGEST = (
    "test_accessibility.py",
    "test_streamed_journey.py",
    "test_behind_a_proxy.py",
    "test_examples.py",
    "test_maps.py",
    "test_fair_nulls.py",
    "test_mode.py",
    "test_host_layers.py",
    "test_keeping.py",
    "test_step.py",
    "test_edits.py",
)
FIRST = ("browser", "pages", "grok", "lens")
# Files that go to one worker, by a name for all of them: journeys share a server and tabs that know
# the app, maps of layers and reports what UMAP compiles, which takes longer than they do.
TOGETHER = {
    "browser": "journeys",
    "report": "maps",
    "test_maps.py": "maps",
}
# Journeys that go by themselves: with servers of their own, or long.
APART = (
    "test_streamed_journey.py",
    "test_behind_a_proxy.py",
    "test_signing_in.py",
    "test_accessibility.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders files, not the tests within them, so that all workers end at about the same time."""
    tests = Path(__file__).parent

    @cache
    def turn(file: Path) -> int:
        folder = file.relative_to(tests).parts[0]
        if folder == "browser" and file.name not in APART:
            return -1
        if file.name in LONGEST:
            return LONGEST.index(file.name)
        return len(LONGEST) + (FIRST.index(folder) if folder in FIRST else len(FIRST))

    items.sort(key=lambda item: turn(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Gives a file to one worker, and to one worker all files that share what is dear."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByWhatIsShared(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.partition("::")[0])
            named = [file.name, *file.parts[:-1]] if file.name not in APART else []
            return next((TOGETHER[name] for name in named if name in TOGETHER), str(file))

    return ByWhatIsShared(config, log)


def pytest_collection_finish() -> None:
    """Whatever is imported and collected stays: cycles are looked for in the rest alone."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """What is left goes with the process: looking for cycles in gigabytes would take seconds."""
    gc.freeze()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server of its own with an empty cache; nothing else on the network is asked."""
    import huggingface_hub.constants

    from benchmarks.hub.server import serving
    from tests.hub_files import FILES

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving(dict(FILES)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server
