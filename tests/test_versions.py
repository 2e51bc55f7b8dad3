"""The lock files answer the requirements: every package, with versions and hashes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {
    "deploy/requirements.lock": ["requirements.txt"],
    "tests/requirements.lock": ["requirements.txt", "tests/requirements.txt"],
    "deploy/requirements-gpu.lock": ["requirements.txt", "requirements-gpu.txt"],
}
PYTHONS = ("3.11.7", "3.12.1", "3.13.0", "3.14.0")
AGAIN = "Write it again: bash deploy/lock"


def wanted(file: str) -> Iterator[Requirement]:
    for line in (ROOT / file).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line and not line.startswith("-r"):
            yield Requirement(line)


def locked(file: str) -> Iterator[tuple[Requirement, int]]:
    """Each package of a lock file and how many hashes it has."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith(("#", " ")):
            named, *hashes = re.split(r"\s+--hash=sha256:[0-9a-f]{64}", line)
            yield Requirement(named), len(hashes)


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_has_one_version_of_all_that_is_required(lock, python):
    if lock.endswith("gpu.lock") and not python.startswith("3.12"):
        pytest.skip("the image for GPUs has Python 3.12")
    here = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    here |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    versions: dict[str, str] = {}
    for package, _ in locked(lock):
        if package.marker is None or package.marker.evaluate(here):
            assert plain(package.name) not in versions
            versions[plain(package.name)] = str(package.specifier).removeprefix("==")
    for file in LOCKS[lock]:
        for package in wanted(file):
            version = versions.get(plain(package.name), "none")
            assert version != "none" and package.specifier.contains(version, prereleases=True), (
                f"{lock} has {version} of {package.name}; {file} asks for {package}. {AGAIN}"
            )


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_names_no_registry(lock):
    assert all(n_hashes for _, n_hashes in locked(lock))
    text = (ROOT / lock).read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_what_is_deployed_is_what_is_tested():
    deployed, tested = (
        {(package.name, str(package.specifier)) for package, _ in locked(lock)}
        for lock in ("deploy/requirements.lock", "tests/requirements.lock")
    )
    assert deployed <= tested, AGAIN
