"""Runs in a folder: whose they are, what is left of a writer that ended, what is cleared."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lens.errors import LensError
from lens.many_prompts import run_events
from lens.many_prompts.retention import DAY, kept_days
from lens.many_prompts.run_events import DamagedRunError, ask, check_files
from lens.many_prompts.run_record import NoRunError
from lens.many_prompts.run_store import RunStore, runs_folder
from lens.storage.file_lock import FileLock, is_held
from tests.lens.many_prompts.run_making import (
    OTHER,
    OWNER,
    begin,
    finished,
    random_routing,
    some_prompts,
    write_events,
)

ROOT = Path(__file__).resolve().parents[3]
ROUTING = random_routing(np.random.default_rng(0), [4, 3, 5, 2])


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "store")


def test_a_run_goes_from_running_to_finished_and_keeps_what_it_is_of(store):
    writing = begin(store)
    run = store.get(writing.run.id)
    assert (run.status, run.n_prompts, run.by_label) == ("running", 4, {"a": 2, "b": 2})
    writing.progress(5, 14)
    assert (store.get(run.id).tokens_done, store.get(run.id).n_tokens) == (5, 14)
    write_events(writing, *ROUTING)
    writing.finish(model_sha256="ab" * 32, n_tokens=14)
    run = store.get(run.id)
    assert (run.status, run.tokens_done, run.model_sha256) == ("finished", 14, "ab" * 32)
    assert len(run.routing_files) == 2
    assert RunStore(store.folder).get(run.id) == run


def test_ids_are_long_and_other_names_are_refused_before_a_path_is_made(store, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "run.json").write_text("{}")
    ids = {begin(store).run.id for _ in range(5)}
    assert len(ids) == 5 and all(len(one) == 22 for one in ids)
    for bad in ["", ".", "..", "../outside", "a" * 21, "a" * 23, "/" * 22, "a" * 21 + "\n"]:
        with pytest.raises(NoRunError, match="no link to a run"):
            store.get(bad)
    with pytest.raises(NoRunError, match="There is no run under this link"):
        store.get("a" * 22)


def test_only_the_owner_is_told_of_a_run_and_only_the_owner_changes_it(store):
    mine, theirs = begin(store), begin(store, owner=OTHER)
    assert [run.id for run in store.runs_of(OWNER)] == [mine.run.id]
    assert store.get(theirs.run.id).owner == OTHER  # the id is enough to look
    theirs.cancel()
    for change in (store.delete, store.resume):
        with pytest.raises(LensError, match="somebody else's"):
            change(theirs.run.id, OWNER)
    assert store.get(theirs.run.id).status == "cancelled"
    for bad in ["", "me", OWNER.upper(), OWNER + "\n"]:
        with pytest.raises(ValueError, match="SHA-256"):
            store.runs_of(bad)


def test_others_on_the_machine_cannot_read_the_folders(store):
    folder = begin(store).run.folder
    for path in (store.folder, folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_runs_are_listed_the_newest_first(store, monkeypatch):
    ids = []
    for second in (100, 300, 200):
        monkeypatch.setattr(time, "time", lambda second=second: float(second))
        ids.append(begin(store).run.id)
    assert [run.id for run in store.runs_of(OWNER)] == [ids[1], ids[2], ids[0]]


def test_a_deleted_run_is_gone_at_once_and_its_writer_notices(store):
    writing = begin(store)
    store.delete(writing.run.id, OWNER)
    assert store.runs_of(OWNER) == []
    assert os.listdir(store.folder) == []
    with pytest.raises(NoRunError, match="deleted while it went on"):
        writing.progress(1, 2)
    writing.run.events.mkdir(parents=True)  # as a collection would that was about to write
    writing.cancel()
    assert os.listdir(store.folder) == []


def test_a_reader_is_told_when_its_run_is_deleted_under_it(store):
    run = finished(store, *ROUTING, ["a", "a", "b", "b"])
    failures, answers = [], []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                found = ask(run, "SELECT count(*) AS n FROM read_parquet($routing)")
                answers.append(int(found["n"][0]))
            except NoRunError:
                return
            except Exception as error:
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    while not answers and not failures:
        time.sleep(0.01)
    store.delete(run.id, OWNER)
    reader.join(120)
    stop.set()
    assert failures == []
    assert set(answers) == {14 * 3 * 2}
    assert not reader.is_alive()


def test_readers_do_not_wait_for_the_writer(store):
    writing = begin(store)
    write_events(writing, *ROUTING)
    part = writing.events / "routing-00002.parquet"
    (writing.events / ".routing-00002.parquet.x").write_bytes(b"half")
    found = ask(writing.run, "SELECT count(*) AS n FROM read_parquet($routing)")
    assert found["n"][0] == 14 * 3 * 2
    assert not part.exists()
    writing.cancel()


KILLED = """
import os, sys
sys.path[:0] = [{root!r}, {tests!r}]
from tests.lens.many_prompts.run_making import begin
from lens.many_prompts.run_store import RunStore
writing = begin(RunStore({folder!r}))
writing.progress(3, 14)
print(writing.run.id, flush=True)
os._exit(9)
"""


def test_a_run_whose_program_ended_is_stopped_and_can_go_on(store):
    code = KILLED.format(root=str(ROOT), tests=str(Path(__file__).parent), folder=str(store.folder))
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    run_id = ended.stdout.strip()
    run = store.get(run_id)
    assert (run.status, run.tokens_done) == ("stopped", 3)
    writing = store.resume(run_id, OWNER)
    assert writing.prompts == some_prompts()
    assert store.get(run_id).status == "running"
    with pytest.raises(LensError, match="goes on already"):
        store.resume(run_id, OWNER)
    write_events(writing, *ROUTING)
    writing.finish(model_sha256="0" * 64, n_tokens=14)
    with pytest.raises(LensError, match="finished"):
        store.resume(run_id, OWNER)


def test_cancelled_and_failed_runs_say_why_and_can_go_on(store):
    writing = begin(store)
    writing.fail("Prompt 3: too long.")
    run = store.get(writing.run.id)
    assert (run.status, run.problem) == ("failed", "Prompt 3: too long.")
    writing = store.resume(run.id, OWNER)
    assert store.get(run.id).problem == ""
    writing.cancel()
    assert store.get(run.id).status == "cancelled"


def test_a_run_whose_program_is_asked_to_end_is_stopped_too(store):
    writing = begin(store)
    writing.stop()
    assert store.get(writing.run.id).status == "stopped"
    store.resume(writing.run.id, OWNER).cancel()


def test_a_run_without_its_prompts_cannot_go_on(store):
    writing = begin(store)
    writing.cancel()
    (writing.run.folder / "input.json").write_text("[")
    with pytest.raises(LensError, match="cannot go on"):
        store.resume(writing.run.id, OWNER)
    assert not is_held(writing.run.folder / "lock")


def test_the_prompts_are_in_no_file_but_the_runs_own(store):
    run = finished(store, *ROUTING, ["a", "a", "b", "b"])
    for name in ("run.json", "begun.json", "lock"):
        assert b"secret" not in (run.folder / name).read_bytes()
    assert os.listdir(store.folder) == [run.id]


def test_old_runs_are_cleared_and_running_ones_are_not(tmp_path, monkeypatch):
    store = RunStore(tmp_path, keep_days=2)
    done, going = begin(store), begin(store)
    done.cancel()
    later = time.time() + 2 * DAY + 60
    assert store.sweep(later - 120) == 0
    assert store.sweep(later) == 0  # from now on it is out of sight
    assert store.sweep(later + DAY - 60) == 0
    assert store.sweep(later + DAY + 60) == 1
    assert [run.id for run in store.runs_of(OWNER)] == [going.run.id]
    assert RunStore(tmp_path, keep_days=0).sweep(later * 2) == 0
    going.cancel()
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(NoRunError, match="deleted or cleared"):
        store.get(going.run.id)  # before anybody has swept
    monkeypatch.setattr(time, "time", lambda: later + 2 * DAY)
    RunStore(tmp_path, keep_days=2)  # swept when opened
    monkeypatch.setattr(time, "time", lambda: later + 4 * DAY)
    assert RunStore(tmp_path, keep_days=2).runs_of(OWNER) == []


def test_a_clock_that_was_ahead_or_behind_for_a_while_costs_no_run(tmp_path):
    store = RunStore(tmp_path, keep_days=2)
    kept = finished(store, *ROUTING, ["a", "a", "b", "b"])
    now = time.time()
    for wrong in (now + 5000 * DAY, now + 5000 * DAY + 600, 0.0, now + 9000 * DAY, now):
        assert store.sweep(wrong) == 0
    assert store.runs_of(OWNER) == [kept]
    assert sorted(os.listdir(kept.folder)) == sorted(
        ["begun.json", "events", "input.json", "lock", "run.json"]
    )


def test_sweeping_leaves_files_that_are_not_the_stores_alone(store):
    store.folder.mkdir(exist_ok=True)
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "folder").mkdir()
    (store.folder / ("a" * 22)).mkdir()
    (store.folder / ".gone-x").mkdir()
    os.symlink(store.folder / "folder", store.folder / ("b" * 22))
    store.sweep(time.time() + 2 * DAY)
    assert sorted(os.listdir(store.folder)) == ["b" * 22, "folder", "notes.txt"]


def test_a_record_of_another_version_is_no_run_and_stays(store):
    writing = begin(store)
    writing.cancel()
    file = writing.run.folder / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 9}))
    assert store.runs_of(OWNER) == []
    with pytest.raises(NoRunError):
        store.get(writing.run.id)
    store.sweep(time.time() + 99 * DAY)
    assert file.exists()


DAMAGES = [
    b"",
    b"{",
    b"\xff\xfe\0",
    b"[" * 100_000,
    b'{"format_version": 1}',
    {"owner": 3},
    {"owner": "ü" * 64},
    {"status": "odd"},
    {"created": float("nan")},
    {"created": 1e30},
    {"tokens_done": None},
    {"by_label": {"a": "many"}},
]


def damage(file: Path, change: bytes | dict) -> None:
    if isinstance(change, dict):
        change = json.dumps(json.loads(file.read_text()) | change).encode()
    file.write_bytes(change)


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_record_is_set_aside_and_made_anew(store, change):
    whole = finished(store, *ROUTING, ["a", "a", "b", "b"])
    manifest = {"n_tokens": 14, "parts": 2, "parts_done": 2, "model_sha256": "0" * 64}
    (whole.events / "manifest.json").write_text(json.dumps(manifest))
    other = begin(store)
    damage(whole.folder / "run.json", change)
    run = store.get(whole.id)
    assert (run.status, run.n_tokens, run.tokens_done) == ("finished", 14, 14)
    assert (run.owner, run.by_label, run.model_sha256) == (OWNER, whole.by_label, "0" * 64)
    assert "set aside" in run.problem
    assert store.get(whole.id) == run  # read from the new record
    assert len(list(whole.folder.glob("damaged-*-run.json"))) == 1
    assert {one.id for one in store.runs_of(OWNER)} == {run.id, other.run.id}


def test_a_damaged_record_of_an_unfinished_run_lets_it_go_on(store):
    writing = begin(store)
    (writing.run.folder / "run.json").write_bytes(b"")
    assert store.get(writing.run.id).status == "running"  # its writer mends it
    writing.note()
    assert json.loads((writing.run.folder / "run.json").read_text())["status"] == "running"
    writing.stop()
    (writing.run.folder / "run.json").write_bytes(b"")
    assert store.get(writing.run.id).status == "stopped"
    assert store.resume(writing.run.id, OWNER).prompts == some_prompts()


def test_a_run_of_which_nothing_can_be_made_is_set_aside_whole_and_said_to_be(store):
    lost, other = begin(store), begin(store)
    for writing in (lost, other):
        writing.cancel()
    for name in ("run.json", "begun.json"):
        (lost.run.folder / name).write_bytes(b"half")
    assert [run.id for run in store.runs_of(OWNER)] == [other.run.id]
    store.sweep()
    assert store.n_damaged == 1
    with pytest.raises(LensError, match="damaged on this server.*nothing of it was deleted"):
        store.get(lost.run.id)
    (aside,) = store.folder.glob(f"damaged-*-{lost.run.id}")
    assert (aside / "input.json").exists()
    store.sweep(time.time() + 31 * DAY)
    assert store.n_damaged == 1
    store.sweep(time.time() + 33 * DAY)  # prompts are kept no longer than others
    assert store.n_damaged == 0


@pytest.mark.parametrize("name", ["routing-00001.parquet", "prompts.parquet", "tokens.parquet"])
def test_a_damaged_file_of_a_run_is_set_aside_and_the_run_can_go_on(store, name):
    run = finished(store, *ROUTING, ["a", "a", "b", "b"])
    file = run.events / name
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    question = f"SELECT count(*) AS n FROM read_parquet(${name.split('-')[0].split('.')[0]})"
    with pytest.raises(DamagedRunError, match=f"{name}.*was damaged and has been set aside"):
        ask(run, question)
    assert store.get(run.id).status == "damaged"
    assert len(list(run.events.glob(f"damaged-*-{name}"))) == 1
    writing = store.resume(run.id, OWNER)
    assert writing.prompts == some_prompts()
    file.write_bytes(b"as a collection would")
    writing.finish(model_sha256="0" * 64, n_tokens=14)
    assert store.get(run.id).status == "finished"


def test_a_file_that_cannot_be_read_for_another_reason_stays(store, monkeypatch):
    run = finished(store, *ROUTING, ["a", "a", "b", "b"])

    def too_many(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(run_events, "_read_through", too_many)
    with pytest.raises(LensError, match="cannot be read now .*Too many open files"):
        check_files(run)
    assert store.get(run.id).status == "finished"


def test_a_person_and_the_store_have_their_limits(tmp_path):
    store = RunStore(tmp_path, runs_of_one=2)
    begin(store), begin(store), begin(store, owner=OTHER)
    with pytest.raises(LensError, match="You have 2 runs; at most 2"):
        begin(store)
    with pytest.raises(LensError, match="All runs together take"):
        begin(RunStore(tmp_path, max_bytes=10))


def test_a_store_that_cannot_be_written_says_which_setting_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LensError, match="GROK_LENS_RUNS"):
        begin(RunStore(tmp_path / "file" / "store"))


def test_the_environment_names_the_folder_and_the_days(monkeypatch, tmp_path):
    monkeypatch.setenv("GROK_LENS_RUNS", str(tmp_path))
    assert runs_folder() == tmp_path
    monkeypatch.delenv("GROK_LENS_RUNS")
    monkeypatch.setenv("GROK_LENS_CACHE", str(tmp_path / "cache"))
    assert runs_folder() == tmp_path / "cache" / "runs"
    for text, days in [("", 30), ("7", 7), ("0", 0), ("0.5", 0.5)]:
        monkeypatch.setenv("GROK_LENS_KEEP_DAYS", text)
        assert kept_days() == days
    for text in ["soon", "-1", "nan", "inf"]:
        monkeypatch.setenv("GROK_LENS_KEEP_DAYS", text)
        with pytest.raises(LensError, match="expected days"):
            kept_days()


def test_one_lock_excludes_another_until_it_lets_go(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert not is_held(tmp_path / "lock")
    assert first.take() and first.take()
    assert is_held(tmp_path / "lock")
    assert not second.take()
    first.release()
    first.release()
    assert not is_held(tmp_path / "lock")
    with second:
        assert second.take(patience=0.1)
    assert first.take()
    first.release()
