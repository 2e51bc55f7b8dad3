"""Compiled loops on disk: used again, and never believed when they are damaged."""

from __future__ import annotations

import pickle
from pathlib import Path

import numba
import pytest

from grok.streaming.kept_code import compiled


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def loop():
    """The same function, as a new process has it."""

    def added(a, b):
        return a + b

    return compiled(nogil=True)(added)


class Foreign:
    """Pickles as a call that leaves a mark."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_code_is_kept_and_a_damaged_file_of_it_is_compiled_again(folder):
    assert loop()(1, 2) == 3
    again = loop()
    assert again(1, 2) == 3 and sum(again.stats.cache_hits.values()) == 1
    index, data = (next(folder.rglob(f"*.{ending}")) for ending in ("nbi", "nbc"))
    for file in (index, data):
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[-20] ^= 0xFF
        for damaged in (b"", b"half", bytes(flipped), pickle.dumps(Foreign())):
            file.write_bytes(damaged)
            anew = loop()
            assert anew(1, 2) == 3 and not anew.stats.cache_hits
            assert file.read_bytes() != damaged  # written whole again
    assert not Path("executed").exists()


def test_where_no_folder_can_be_written_code_is_compiled_each_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file" / "inside"))
    assert loop()(1, 2) == 3
