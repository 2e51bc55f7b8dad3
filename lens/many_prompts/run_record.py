"""The record of a run of many prompts, and the file that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lens.errors import LensError
from lens.storage.file_lock import is_held
from lens.storage.whole_file import whole_file

FORMAT_VERSION = 1
STATUSES = ("running", "finished", "failed", "cancelled")
RECORD, LOCK, EVENTS = "run.json", "lock", "events"


class NoRunError(LensError):
    """There is no such run, or no longer."""


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
        status: running, finished, failed, cancelled, or stopped (its writer has ended).
        problem: why it failed.
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
        found = json.loads((folder / RECORD).read_text("utf-8"))
        if found.pop("format_version") != FORMAT_VERSION:
            return None
        run = Run(**found, folder=folder)
        numbers = (run.created, run.changed, run.n_experts, run.n_prompts, run.n_tokens)
        texts = (run.owner, run.model_name, run.dtype, run.model_sha256, run.status, run.problem)
        known = run.id == folder.name and run.status in STATUSES and isinstance(run.by_label, dict)
        if not known or not all(isinstance(one, int | float) for one in numbers):
            return None
        if not all(isinstance(one, str) for one in texts):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if run.status == "running" and not is_held(folder / LOCK):
        return replace(run, status="stopped")
    return run


def as_json(run: Run) -> dict[str, Any]:
    record = asdict(run)
    del record["folder"]
    return {"format_version": FORMAT_VERSION, **record}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(content, ensure_ascii=True).encode())
