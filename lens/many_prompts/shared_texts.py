"""Texts that somebody has shared by a link, each a file that only its unguessable id leads to.

    FOLDER/ID.json      owner's hash, when, from where, and the texts by their boxes

What the text gives is not kept: who opens the link has the model run it again. Files appear
whole or not at all; one that cannot be read is set aside. They stay as long as runs do.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from grok.files import set_aside
from lens.errors import LensError
from lens.many_prompts.retention import due, expired, kept_days
from lens.many_prompts.run_record import LATEST, OWNER, write_json
from lens.many_prompts.run_store import ID, runs_folder

MOST = 2000
MOST_OF_ONE = 50
MAX_CHARACTERS = 200_000
MAX_BYTES = 2_000_000
FORMAT_VERSION = 1
_EXPIRED = ".expired"


class NoTextError(LensError):
    """There is no such text, or no longer."""


@dataclass(frozen=True)
class SharedText:
    """Texts that were shared.

    Attributes:
        id: unguessable; who has it may read them.
        owner: SHA-256 of the owner's key.
        created: seconds since 1970.
        row: where in the app they were typed.
        texts: by the names of their boxes.
    """

    id: str
    owner: str
    created: float
    row: str
    texts: Mapping[str, str]


class SharedTexts:
    """The shared texts in a folder.

    Args:
        folder: where; None takes "texts" in the folder of the runs.
        keep_days: older ones are cleared; 0 keeps them for ever. None takes that of the runs.
        most: texts in all.
        most_of_one: texts of one owner.

    Raises:
        LensError: the retention in the environment is no number of days.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        keep_days: float | None = None,
        most: int = MOST,
        most_of_one: int = MOST_OF_ONE,
    ) -> None:
        self.folder = runs_folder() / "texts" if folder is None else Path(folder)
        self.keep_days = kept_days() if keep_days is None else keep_days
        self.most, self.most_of_one = most, most_of_one

    def create(self, owner: str, row: str, texts: Mapping[str, str]) -> SharedText:
        """Keep texts under a new id.

        Raises:
            LensError: they are too long or too many, or cannot be written.
        """
        self.sweep()
        n_characters = sum(len(text) for text in texts.values())
        if n_characters > MAX_CHARACTERS:
            raise LensError(
                f"The texts have {n_characters:,} characters; at most {MAX_CHARACTERS:,} can be "
                "shared by a link."
            )
        ids = list(self._ids())
        if len(ids) >= self.most:
            raise LensError("This server keeps no more shared texts now. Try again another day.")
        if len(self.of(owner)) >= self.most_of_one:
            raise LensError(
                f"You share {self.most_of_one} texts, the most that are kept for one person. "
                "Forget one that you no longer need: open its link, and see “Share”."
            )
        made = SharedText(secrets.token_urlsafe(16), owner, time.time(), row, dict(texts))
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_json(self._file(made.id), {"format_version": FORMAT_VERSION, **asdict(made)})
        except OSError as error:
            raise LensError(
                f"A text cannot be kept on this server ({error.strerror or error})."
            ) from error
        return made

    def get(self, text_id: str) -> SharedText:
        """The texts of an id.

        Raises:
            NoTextError: there are none, or no longer.
            LensError: the file is damaged; it is set aside.
        """
        none = NoTextError(
            "There is no text under this link. It was forgotten or cleared, or the link is not "
            "whole."
        )
        if not re.fullmatch(ID, text_id):
            raise none
        file = self._file(text_id)
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ValueError("too large")
            found = _read(file)
            if found.id != text_id:
                raise ValueError("of another id")
        except FileNotFoundError:
            raise none from None
        except OSError as error:
            raise LensError(
                f"The text under this link cannot be read now ({error.strerror}). Try again later."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            set_aside(file)
            raise LensError(
                "The text under this link is damaged on this server, and was set aside. Ask who "
                "shared it for a new link."
            ) from error
        if expired(found.created, self.keep_days, time.time()):
            raise none
        return found

    def of(self, owner: str) -> list[SharedText]:
        """An owner's texts, the newest first."""
        own = []
        for text_id in self._ids():
            try:
                found = self.get(text_id)
            except LensError:
                continue
            if secrets.compare_digest(found.owner, owner):
                own.append(found)
        return sorted(own, key=lambda one: -one.created)

    def delete(self, text_id: str, owner: str) -> None:
        """Remove a text for good.

        Raises:
            LensError: it is somebody else's, or cannot be removed.
        """
        if not secrets.compare_digest(self.get(text_id).owner, owner):
            raise LensError("This text is somebody else's: you may read it, but not forget it.")
        try:
            self._file(text_id).unlink(missing_ok=True)
        except OSError as error:
            raise LensError(
                f"The text cannot be removed ({error.strerror or error}). Try again."
            ) from error

    def sweep(self, now: float | None = None) -> int:
        """Clear texts, damaged ones too, that have been too old for a day; how many."""
        now = time.time() if now is None else now
        cleared = 0
        for entry in self._files():
            file = Path(entry.path)
            marker = file.with_name(file.name + _EXPIRED)
            try:
                if file.suffix == _EXPIRED:
                    if not file.with_suffix("").exists():
                        file.unlink(missing_ok=True)
                elif due(marker, expired(file.stat().st_mtime, self.keep_days, now), now):
                    file.unlink(missing_ok=True)
                    marker.unlink(missing_ok=True)
                    cleared += 1
            except OSError:
                continue  # removed meanwhile, or not ours to remove
        return cleared

    def _file(self, text_id: str) -> Path:
        return self.folder / f"{text_id}.json"

    def _files(self) -> Iterator[os.DirEntry[str]]:
        try:
            yield from (entry for entry in os.scandir(self.folder) if not entry.is_dir())
        except OSError:
            return

    def _ids(self) -> Iterator[str]:
        for entry in self._files():
            name = entry.name.removesuffix(".json")
            if re.fullmatch(ID, name) and name != entry.name:
                yield name


def _read(file: Path) -> SharedText:
    found = json.loads(file.read_text("utf-8"))
    if found.pop("format_version") != FORMAT_VERSION:
        raise ValueError("another version")
    one = SharedText(**found)
    texts = (one.id, one.owner, one.row, *one.texts.keys(), *one.texts.values())
    known = type(one.created) in (int, float) and 0 <= one.created <= LATEST
    if not known or not all(isinstance(text, str) for text in texts):
        raise ValueError("other kinds of values")
    if not re.fullmatch(OWNER, one.owner):
        raise ValueError("no owner")
    return one
