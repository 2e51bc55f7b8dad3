"""What is kept on disk comes back as it was, or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok.files import CACHE_VARIABLE, cache_folder
from lens.routers.router_set import RouterSet
from lens.storage import disk_cache
from lens.storage.disk_cache import DiskCache, content_key
from lens.vocabulary.readout import TESTS, ArrayRows, ReadoutSettings
from lens.vocabulary.readout_store import kept_readout, stored_readout

KEY = content_key("a")
FEW = ReadoutSettings(kept=4, draws=100)


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "kept")


def test_arrays_come_back_as_they_were(cache: DiskCache) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "n": np.int64(7), "text": np.str_("é")}
    assert cache.get("thing", KEY) is None
    assert cache.put("thing", KEY, arrays)
    found = DiskCache(cache.folder).get("thing", KEY)
    assert found is not None and set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert cache.get("thing", content_key("b")) is None
    assert cache.get("other", KEY) is None
    assert cache.problem is None


def test_keys_differ_where_their_parts_do() -> None:
    keys = {content_key(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), (1,), ("1", ""))}
    assert len(keys) == 5 and all(len(key) == 64 for key in keys)
    assert content_key("a", 1) == content_key("a", 1)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "pickled", "renamed"])
def test_an_entry_that_is_damaged_or_foreign_is_dropped_and_runs_nothing(
    cache: DiskCache, damage: str, tmp_path: Path
) -> None:
    cache.put("thing", KEY, {"a": np.arange(1000.0)})
    file = next(cache.folder.iterdir())
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[:-100])
    elif damage == "flipped":
        file.write_bytes(whole[:4000] + bytes([whole[4000] ^ 1]) + whole[4001:])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "text":
        file.write_text("not a zip")
    elif damage == "pickled":
        marker = tmp_path / "executed"

        class Evil:
            def __reduce__(self) -> tuple:
                return (os.mkdir, (str(marker),))

        np.savez(file, cache_key=np.str_(f"thing:{KEY}"), a=np.array([Evil()], dtype=object))
    else:  # another key's entry under this name
        cache.put("thing", content_key("b"), {"a": np.zeros(3)})
        os.replace(cache.folder / f"thing-{content_key('b')}.npz", file)
    assert cache.get("thing", KEY) is None
    assert not file.exists()
    assert not (tmp_path / "executed").exists()
    assert cache.put("thing", KEY, {"a": np.ones(2)}) and cache.get("thing", KEY) is not None


def test_an_entry_that_unpacks_to_more_than_is_read_is_dropped(
    cache: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "MAX_ENTRY", 2**23)
    cache.put("thing", KEY, {"a": np.ones(2)})
    file = next(cache.folder.iterdir())
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cache_key.npy", bytes(2**24))
    assert cache.get("thing", KEY) is None


def test_a_link_in_place_of_an_entry_is_not_followed(cache: DiskCache, tmp_path: Path) -> None:
    cache.put("thing", KEY, {"a": np.ones(2)})
    file = next(cache.folder.iterdir())
    os.replace(file, tmp_path / "elsewhere.npz")
    file.symlink_to(tmp_path / "elsewhere.npz")
    assert cache.get("thing", KEY) is None


def test_the_entries_used_longest_ago_make_room_and_other_files_stay(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, max_bytes=30_000)
    (tmp_path / "mine.npz").write_bytes(bytes(50_000))
    keys = [content_key(i) for i in range(4)]
    for i, key in enumerate(keys[:3]):
        cache.put("thing", key, {"a": np.zeros(1100)})  # about 9 kB each
        os.utime(tmp_path / f"thing-{key}.npz", (i, i))
    assert cache.get("thing", keys[0]) is not None  # used now, so no longer the oldest
    cache.put("thing", keys[3], {"a": np.zeros(1100)})
    assert [cache.get("thing", key) is not None for key in keys] == [True, False, True, True]
    assert (tmp_path / "mine.npz").exists()
    assert not cache.put("thing", keys[1], {"a": np.zeros(10_000)})  # more than there is room for
    assert cache.get("thing", keys[0]) is not None


def test_unfinished_files_of_ended_programs_go_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / ".entry_old.part", tmp_path / ".entry_new.part"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    DiskCache(tmp_path).put("thing", KEY, {"a": np.ones(1)})
    assert new.exists() and not old.exists()


def test_where_nothing_can_be_written_it_says_so_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = DiskCache(tmp_path / "file" / "folder")
    assert cache.get("thing", KEY) is None
    assert not cache.put("thing", KEY, {"a": np.ones(1)})
    assert cache.problem is not None and CACHE_VARIABLE in cache.problem
    readout = stored_readout(routers(), Counted(rows()), "file", FEW, cache=cache)
    assert readout.n_tokens == 50


def test_a_failed_write_leaves_nothing_behind(
    cache: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert not cache.put("thing", KEY, {"a": np.ones(1)})
    assert cache.problem is not None and "No space left" in cache.problem
    assert list(cache.folder.iterdir()) == []


def test_the_folder_is_the_one_named_or_the_platform_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "grok-moe-lens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "grok-moe-lens"


def test_a_name_that_could_leave_the_folder_is_refused(cache: DiskCache) -> None:
    with pytest.raises(ValueError, match="no name of an entry"):
        cache.get("../thing", KEY)
    with pytest.raises(ValueError, match="no name of an entry"):
        cache.put("thing", "../" + KEY, {})


# --- read-outs ---------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """An embedding that counts how often it is read."""

    inner: ArrayRows
    reads: tuple[list[int]] = ([],)

    n_tokens = property(lambda self: self.inner.n_tokens)
    d_model = property(lambda self: self.inner.d_model)
    multiplier = property(lambda self: self.inner.multiplier)
    epsilon = property(lambda self: self.inner.epsilon)
    centred = property(lambda self: self.inner.centred)

    def blocks(self, rows: int, progress: Any = None) -> Iterator[np.ndarray]:
        self.reads[0].append(rows)
        return self.inner.blocks(rows, progress)


def routers(seed: int = 0) -> RouterSet:
    weights = np.random.default_rng(seed).standard_normal((2, 16, 4))
    return RouterSet(weights.astype(np.float32))


def rows(seed: int = 1) -> ArrayRows:
    return ArrayRows(np.random.default_rng(seed).standard_normal((50, 16)).astype(np.float32), 2.0)


def test_a_readout_is_computed_once_and_comes_back_whole(cache: DiskCache) -> None:
    embedding = Counted(rows(), ([],))
    assert kept_readout(routers(), embedding, "file", FEW, cache) is None
    first = stored_readout(routers(), embedding, "file", FEW, cache=cache)
    assert len(embedding.reads[0]) == 1
    again = stored_readout(routers(), embedding, "file", FEW, cache=DiskCache(cache.folder))
    assert len(embedding.reads[0]) == 1
    for name in first.__dataclass_fields__:
        found, expected = getattr(again, name), getattr(first, name)
        np.testing.assert_array_equal(found, expected)
        assert np.asarray(found).dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(first.q, again.q)
    assert first.q.shape == (len(TESTS), 2, 4)


def test_a_readout_is_computed_again_when_anything_it_depends_on_changes(cache: DiskCache) -> None:
    reads: list[int] = []

    def read(
        routers_: RouterSet, embedding: ArrayRows, identity: str, settings: ReadoutSettings = FEW
    ) -> int:
        before = len(reads)
        stored_readout(routers_, Counted(embedding, (reads,)), identity, settings, cache=cache)
        return len(reads) - before

    assert read(routers(), rows(), "file") == 1
    assert read(routers(), rows(), "file") == 0
    assert read(routers(5), rows(), "file") == 1
    assert read(replace(routers(), top_k=1), rows(), "file") == 1
    assert read(routers(), replace(rows(), multiplier=3.0), "file") == 1
    for settings in (
        replace(FEW, view="raw"),
        replace(FEW, seed=1),
        replace(FEW, kept=5),
        replace(FEW, draws=200),
    ):
        assert read(routers(), rows(), "file", settings) == 1
    assert read(routers(), rows(2), "file, newer") == 1
    # A copy has to be read to be known, and then is.
    assert read(routers(), rows(), "copy") == 1
    assert read(routers(), rows(), "copy") == 0


@pytest.mark.parametrize(
    "name, value",
    [
        ("top", np.full((2, 4, 4), 50)),
        ("top", np.zeros((2, 4, 3), int)),
        ("mean", np.full((2, 4), np.nan)),
        ("share", np.zeros((2, 4), int)),
        ("n_tokens", np.int64(51)),
        ("top_k", np.int64(1)),
        ("frames", np.float64(3)),
        ("chance_top", np.float64(3)),
        ("mixed_sd", np.float64(3)),
        ("limit_p", np.zeros((2, 2))),
        ("sd", None),
    ],
)
def test_a_readout_that_cannot_be_is_computed_again(
    cache: DiskCache, name: str, value: np.ndarray | None
) -> None:
    embedding = Counted(rows(), ([],))
    good = stored_readout(routers(), embedding, "file", FEW, cache=cache)
    entry = next(path for path in cache.folder.iterdir() if path.name.startswith("readout"))
    key = entry.stem.removeprefix("readout-")
    arrays = cache.get("readout", key)
    assert arrays is not None
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    cache.put("readout", key, arrays)
    assert kept_readout(routers(), embedding, "file", FEW, cache) is None
    again = stored_readout(routers(), embedding, "file", FEW, cache=cache)
    np.testing.assert_array_equal(again.top, good.top)


@pytest.mark.parametrize("text", ["no hash", "A" * 64, ""])
def test_a_noted_hash_that_is_none_is_not_believed(cache: DiskCache, text: str) -> None:
    cache.note_sha256(text, "file")
    assert cache.known_sha256("file") is None
    cache.note_sha256("0" * 64, "file")
    assert cache.known_sha256("file") == "0" * 64
