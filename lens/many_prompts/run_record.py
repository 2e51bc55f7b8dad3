"""The record of a run of many prompts, and the files that hold it.

    FOLDER/run.json       the record, written anew as the run goes on
    FOLDER/begun.json     the record as it was when the run began, never written again

A record that is damaged is set aside and made anew from the other file and what the collection
says of itself, so that nothing that was run is lost with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from grok.files import set_aside, set_aside_in
from lens.errors import LensError
from lens.storage.file_lock import is_held
from lens.storage.whole_file import whole_file

FORMAT_VERSION = 1
STATUSES = ("running", "finished", "failed", "cancelled")
RECORD, BEGUN, LOCK, EVENTS = "run.json", "begun.json", "lock", "events"
MANIFEST = "manifest.json"
OWNER = r"[0-9a-f]{64}"
LATEST = 253402300799.0  # seconds since 1970 at the end of the year 9999
MADE_ANEW = (
    "The record of this run was damaged and has been set aside. It was made anew from the run's "
    "other files; nothing that was run is lost."
)


class NoRunError(LensError):
    """There is no such run, or no longer."""


class DamagedError(ValueError):
    """A file that holds no record, or half of one."""


@dataclass(frozen=True)
class Run:
    """The record of a run.

    Attributes:
        id: unguessable; who has it may look at the run.
        owner: SHA-256 of the owner's key.
        created, changed: seconds since 1970.
        model_name, dtype: what was to run the prompts.
        n_experts: of each of its layers.
        model_sha256: of the routers that ran them; empty until known.
        by_label: prompts of each label.
        n_prompts: prompts in all.
        n_tokens, tokens_done: tokens in all and so far; 0 until known.
        status: running, finished, failed, cancelled, stopped (its writer has ended), or damaged
            (finished, and a file of it was set aside since).
        problem: why it failed, or what was set aside.
        folder: of the run.
    """

    id: str
    owner: str
    created: float
    changed: float
    model_name: str
    dtype: str
    n_experts: int
    n_prompts: int
    by_label: Mapping[str, int]
    model_sha256: str = ""
    n_tokens: int = 0
    tokens_done: int = 0
    status: str = "running"
    problem: str = ""
    folder: Path = field(default=Path(), compare=False)

    @property
    def events(self) -> Path:
        """The folder of the collection."""
        return self.folder / EVENTS

    @property
    def routing_files(self) -> list[Path]:
        """The routing files that are whole, in order."""
        return sorted(self.events.glob("routing-[0-9][0-9][0-9][0-9][0-9].parquet"))


def read_run(folder: Path) -> Run | None:
    """The run of a folder, or None where there is none that this version understands."""
    try:
        run = _record(folder, RECORD)
    except OSError:
        return None
    except DamagedError:
        run = _made_anew(folder)
    if run is None:
        return None
    if run.status == "running" and not is_held(folder / LOCK):
        return replace(run, status="stopped")
    if run.status == "finished" and set_aside_in(run.events):
        return replace(run, status="damaged")
    return run


def is_damaged(folder: Path) -> bool:
    """True where a folder's record is damaged and cannot be made anew."""
    try:
        _record(folder, RECORD)
    except DamagedError:
        return True
    except OSError:
        pass
    return False


def _record(folder: Path, name: str) -> Run | None:
    """The record in a file; None where a version wrote it that is not this one.

    Raises:
        DamagedError: it is no record.
        OSError: it cannot be read.
    """
    try:
        found = json.loads((folder / name).read_text("utf-8"))
        if found.pop("format_version") != FORMAT_VERSION:
            return None
        run = Run(**found, folder=folder)
        counts = (
            run.n_experts,
            run.n_prompts,
            run.n_tokens,
            run.tokens_done,
            *run.by_label.values(),
        )
        times = (run.created, run.changed)
        texts = (run.model_name, run.dtype, run.model_sha256, run.problem)
        known = (
            run.id == folder.name
            and run.status in STATUSES
            and re.fullmatch(OWNER, run.owner)
            and all(isinstance(one, str) for one in (*texts, *run.by_label))
            and all(type(one) is int and 0 <= one < 2**53 for one in counts)
            and all(type(one) in (int, float) and 0 <= one <= LATEST for one in times)
        )
    except OSError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(name) from error
    if not known:
        raise DamagedError(name)
    return run


def _made_anew(folder: Path) -> Run | None:
    """A run whose record is damaged, by its other files; None where they don't say enough.

    While somebody writes the run nothing is changed: the next note of progress mends it.
    """
    try:
        begun = _record(folder, BEGUN)
    except (OSError, DamagedError):
        begun = None
    if begun is None or is_held(folder / LOCK):
        return begun
    run = replace(begun, **_collected(begun.events), problem=MADE_ANEW)
    if set_aside(folder / RECORD) is not None:
        try:
            write_json(folder / RECORD, as_json(run))
        except OSError:
            pass  # made anew again the next time
    return run


def _collected(events: Path) -> dict[str, Any]:
    """What a collection says of itself, in the words of a record."""
    try:
        found = json.loads((events / MANIFEST).read_text("utf-8"))
        n_tokens, sha256 = int(found["n_tokens"]), str(found["model_sha256"])
        if int(found["parts_done"]) == int(found["parts"]):
            whole = {"n_tokens": n_tokens, "tokens_done": n_tokens}
            return {**whole, "status": "finished", "model_sha256": sha256}
        return {"n_tokens": n_tokens}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return {}


def as_json(run: Run) -> dict[str, Any]:
    record = asdict(run)
    del record["folder"]
    return {"format_version": FORMAT_VERSION, **record}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(content, ensure_ascii=True).encode())
