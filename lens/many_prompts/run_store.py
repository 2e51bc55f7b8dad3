"""Runs of many prompts, each a folder that only its unguessable id leads to.

    STORE/ID/run.json         what it is, see `run_record`; begun.json: as it began
    STORE/ID/input.json       the prompts, to go on with
    STORE/ID/events/          the collection: prompts, tokens and routing as Parquet
    STORE/ID/lock             held by the one that writes
    STORE/ID/expired          since when the run is older than runs are kept
    STORE/damaged-WHEN-ID/    a run whose record cannot be read or made anew

A run has one writer; readers open finished files only, so neither waits for the other.
Files appear whole or not at all. A run whose writer has ended without a word is stopped:
its owner lets it go on or deletes it. Who has the id may look; only the owner is told that it
exists, and only the owner changes it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from grok.files import DAMAGED, cache_folder, set_aside
from lens.errors import LensError
from lens.many_prompts.prompt_lists import PromptList
from lens.many_prompts.retention import DAY, KEEP_VARIABLE, due, expired, kept_days
from lens.many_prompts.run_record import (
    BEGUN,
    LOCK,
    OWNER,
    RECORD,
    NoRunError,
    Run,
    as_json,
    is_damaged,
    read_run,
    write_json,
)
from lens.storage.file_lock import FileLock, is_held
from lens.storage.folder_size import bytes_in

FOLDER_VARIABLE = "GROK_LENS_RUNS"
RUNS_OF_ONE = 20
MAX_BYTES = 8 * 2**30
TELL_EVERY = 0.5  # seconds between two notes of progress
ID = r"[A-Za-z0-9_-]{22}"
"""Ids that nobody guesses, of runs and of shared texts."""
_GONE = ".gone-"
_INPUT, _EXPIRED = "input.json", "expired"


class RunStore:
    """The runs in a folder.

    Args:
        folder: where; None takes GROK_LENS_RUNS, else a folder beside the caches.
        keep_days: runs older than that are cleared; 0 keeps them for ever. None takes
            GROK_LENS_KEEP_DAYS, else 30.
        runs_of_one: most runs that one owner may have.
        max_bytes: no run is begun while all together are larger.
        bytes_of_one: nor while those of its owner are; None for no such limit.

    Raises:
        LensError: the retention in the environment is no number of days.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        keep_days: float | None = None,
        runs_of_one: int = RUNS_OF_ONE,
        max_bytes: int = MAX_BYTES,
        bytes_of_one: int | None = None,
    ) -> None:
        self.folder = runs_folder() if folder is None else Path(folder)
        self.keep_days = kept_days() if keep_days is None else keep_days
        self.runs_of_one, self.max_bytes = runs_of_one, max_bytes
        self.bytes_of_one = bytes_of_one
        self.sweep()

    def create(
        self, owner: str, prompts: PromptList, *, model_name: str, dtype: str, n_experts: int
    ) -> Writing:
        """A new run, to be written by the caller alone.

        Raises:
            LensError: the owner has too many, the store is full or cannot be written.
        """
        _checked_owner(owner)
        own = self.runs_of(owner)
        if len(own) >= self.runs_of_one:
            raise LensError(
                f"You have {len(own)} runs; at most {self.runs_of_one} are kept for one person. "
                "Delete one that you no longer need."
            )
        size = sum(bytes_in(run.folder) for run in own) if self.bytes_of_one else 0
        if size >= (self.bytes_of_one or 1):
            raise LensError(
                f"Your runs take {size:,} bytes; at most {self.bytes_of_one:,} are kept for one "
                "person. Delete one that you no longer need."
            )
        size = self.bytes_used()
        if size >= self.max_bytes:
            raise LensError(
                f"All runs together take {size:,} bytes; at most {self.max_bytes:,} are kept here. "
                f"Delete runs, or keep them for fewer days ({KEEP_VARIABLE})."
            )
        now = time.time()
        run_id = secrets.token_urlsafe(16)
        run = Run(
            id=run_id,
            owner=owner,
            created=now,
            changed=now,
            model_name=model_name,
            dtype=dtype,
            n_experts=n_experts,
            n_prompts=len(prompts.texts),
            by_label=prompts.by_label,
            folder=self.folder / run_id,
        )
        lock = FileLock(run.folder / LOCK)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            run.folder.mkdir(mode=0o700)
            lock.take()
            write_json(run.folder / _INPUT, asdict(prompts))
            write_json(run.folder / BEGUN, as_json(run))
            write_json(run.folder / RECORD, as_json(run))
        except OSError as error:
            lock.release()
            shutil.rmtree(run.folder, ignore_errors=True)
            raise LensError(
                f"A run cannot be kept on this server ({error.strerror or error}). Free space, or "
                f"name a folder that can be written in {FOLDER_VARIABLE}."
            ) from error
        return Writing(run, prompts, lock)

    def resume(self, run_id: str, owner: str) -> Writing:
        """An unfinished run, to go on with.

        Raises:
            LensError: it is not the owner's, is finished, or somebody writes it.
        """
        run = self._owned(run_id, owner)
        if run.status == "finished":
            raise LensError("This run is finished. Start a new one.")
        lock = FileLock(run.folder / LOCK)
        try:
            if not lock.take(patience=0.5):
                raise LensError("This run goes on already. Wait for it, or cancel it.")
            found = json.loads((run.folder / _INPUT).read_text("utf-8"))
            prompts = PromptList(
                tuple(found["texts"]),
                tuple(found["labels"]),
                found["form"],
                tuple(found["columns"]),
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            lock.release()
            raise LensError(
                "The prompts of this run cannot be read any more, so it cannot go on. Delete it "
                "and start a new one."
            ) from error
        writing = Writing(replace(run, status="running", problem=""), prompts, lock)
        try:
            writing.note()
        except LensError:
            lock.release()
            raise
        return writing

    def get(self, run_id: str) -> Run:
        """The run of an id.

        Raises:
            NoRunError: there is none, or no longer.
            LensError: it is damaged.
        """
        folder = self._folder_of(run_id)
        run = read_run(folder)
        if run is None and (is_damaged(folder) or any(self.folder.glob(f"{DAMAGED}*-{run_id}"))):
            raise LensError(
                "This run is damaged on this server and was set aside; nothing of it was deleted. "
                f"Who runs the server finds it in the folder of runs, under “{DAMAGED}…”."
            )
        if run is None or self._expired(run, time.time()):
            raise NoRunError(
                "There is no run under this link. It has been deleted or cleared, or the link is "
                "not whole."
            )
        return run

    def runs_of(self, owner: str) -> list[Run]:
        """An owner's runs, the newest first."""
        _checked_owner(owner)
        own = [run for run in self._all() if run.owner == owner]
        return sorted(own, key=lambda run: -run.created)

    def delete(self, run_id: str, owner: str) -> None:
        """Remove a run at once and for good; a writer at work notices and ends.

        Raises:
            LensError: it is not the owner's.
        """
        self._remove(self._owned(run_id, owner).folder)

    def sweep(self, now: float | None = None) -> int:
        """Clear runs that have long been too old, and leftovers; set damaged ones aside.

        Returns:
            How many runs were cleared.
        """
        now = time.time() if now is None else now
        cleared = 0
        for entry in self._entries():
            folder = Path(entry.path)
            if entry.name.startswith(_GONE):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            run = read_run(folder)
            if run is not None:
                old = self._expired(run, now)
            elif is_damaged(folder):
                folder = folder if entry.name.startswith(DAMAGED) else set_aside(folder) or folder
                old = expired(_changed(folder / RECORD), self.keep_days, now)
            else:
                old = False
                left = not (folder / RECORD).exists() and now - _changed(folder) > DAY
                if left and not is_held(folder / LOCK):
                    self._remove(folder)
            if due(folder / _EXPIRED, old, now):
                self._remove(folder)
                cleared += 1
        return cleared

    @property
    def n_damaged(self) -> int:
        """Runs that were set aside, because nothing could be made of their records."""
        return sum(entry.name.startswith(DAMAGED) for entry in self._entries())

    def _expired(self, run: Run, now: float) -> bool:
        """True where a run is older than runs are kept for; one that goes on never is."""
        return expired(run.created, self.keep_days, now) and run.status != "running"

    def bytes_used(self) -> int:
        """Bytes of all files in the store."""
        return bytes_in(self.folder)

    def _folder_of(self, run_id: str) -> Path:
        if not re.fullmatch(ID, run_id):
            raise NoRunError("This is no link to a run: its id is not whole. Copy the link again.")
        return self.folder / run_id

    def _owned(self, run_id: str, owner: str) -> Run:
        _checked_owner(owner)
        run = self.get(run_id)
        if not secrets.compare_digest(run.owner, owner):
            raise LensError("This run is somebody else's: you may look at it, but not change it.")
        return run

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        try:
            entries = list(os.scandir(self.folder))
        except OSError:
            return
        for entry in entries:
            known = re.fullmatch(ID, entry.name) or entry.name.startswith((_GONE, DAMAGED))
            if known and entry.is_dir(follow_symlinks=False):
                yield entry

    def _all(self) -> Iterator[Run]:
        for entry in self._entries():
            run = read_run(Path(entry.path)) if re.fullmatch(ID, entry.name) else None
            if run is not None:
                yield run

    def _remove(self, folder: Path) -> None:
        """Out of sight in one step, then off the disk; files being read stay for the reader."""
        gone = self.folder / f"{_GONE}{folder.name}-{secrets.token_hex(4)}"
        try:
            os.rename(folder, gone)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LensError(
                f"The run cannot be deleted ({error.strerror or error}). Try again."
            ) from error
        shutil.rmtree(gone, ignore_errors=True)


class Writing:
    """The right to write a run, held until one of its ends: finish, fail, cancel.

    Attributes:
        run: as last noted.
        prompts: what to run.
        events: the folder for the collection.
    """

    def __init__(self, run: Run, prompts: PromptList, lock: FileLock) -> None:
        self.run, self.prompts = run, prompts
        self._lock = lock
        self._told = 0.0

    @property
    def events(self) -> Path:
        return self.run.events

    def progress(self, done: int, total: int) -> None:
        """Note how far it is, at most twice a second; a note that cannot be written is left out.

        Raises:
            NoRunError: the run was deleted meanwhile.
        """
        if not (self.run.folder / RECORD).is_file():
            raise NoRunError("The run was deleted while it went on.")
        self.run = replace(self.run, tokens_done=done, n_tokens=total)
        if time.monotonic() - self._told > TELL_EVERY:
            self._told = time.monotonic()
            try:
                self.note()
            except LensError:
                pass  # the collection's own files say what to do

    def finish(self, *, model_sha256: str, n_tokens: int) -> Run:
        """The collection is whole."""
        return self._end(
            status="finished", model_sha256=model_sha256, n_tokens=n_tokens, tokens_done=n_tokens
        )

    def fail(self, problem: str) -> Run:
        """It cannot go on, for a reason that the owner can read."""
        return self._end(status="failed", problem=problem)

    def cancel(self) -> Run:
        """Its owner wants it no further for now."""
        return self._end(status="cancelled")

    def stop(self) -> None:
        """The program ends: the run is stopped where it is."""
        self._lock.release()

    def drop(self) -> None:
        """As if it had never been."""
        self._lock.release()
        shutil.rmtree(self.run.folder, ignore_errors=True)

    def note(self) -> None:
        """Write the record as it is now.

        Raises:
            LensError: it cannot be written.
        """
        self.run = replace(self.run, changed=time.time())
        try:
            if (self.run.folder / RECORD).is_file():
                write_json(self.run.folder / RECORD, as_json(self.run))
        except OSError as error:
            raise LensError(
                f"The record of this run cannot be written ({error.strerror or error}). Free space "
                "on the server's disk, then let the run go on: what was run is kept."
            ) from error

    def _end(self, **changes: Any) -> Run:
        self.run = replace(self.run, **changes)
        try:
            if (self.run.folder / RECORD).is_file():
                self.note()
            else:  # deleted meanwhile: nothing written since then stays
                shutil.rmtree(self.run.folder, ignore_errors=True)
        finally:
            self._lock.release()
        return self.run


def runs_folder() -> Path:
    """The folder named by GROK_LENS_RUNS, else one beside the caches."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else cache_folder() / "runs"


def _checked_owner(owner: str) -> None:
    if not re.fullmatch(OWNER, owner):
        raise ValueError("an owner is the SHA-256 of a key, in hexadecimal")


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return time.time()
