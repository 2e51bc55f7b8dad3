"""All that a server keeps of one owner: as one archive to take away, and gone."""

from __future__ import annotations

import json
import tempfile
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from lens.errors import LensError
from lens.many_prompts.run_record import LOCK
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.shared_texts import SharedTexts
from lens.storage import feature_notes
from lens.storage.expert_notes import NoteBook, as_json

MOST_BYTES = 10**9
README = """What this server keeps of you, {when} UTC.

notes.json   names, notes and pins on experts
features.json  names, tags, notes and pins on features
texts.json   texts that you have put into a link
runs/        runs of many prompts: run.json, input.json until a run is finished, and in
             events/ prompts, tokens and routing as Parquet
"""


@dataclass(frozen=True)
class OwnData:
    """What three stores keep of one owner.

    Attributes:
        owner: SHA-256 of the owner's key.
        notes, runs, texts: the stores.
    """

    owner: str
    notes: NoteBook
    runs: RunStore
    texts: SharedTexts

    @property
    def counts(self) -> tuple[int, int, int]:
        """Notes, runs and shared texts."""
        return (
            len(self.notes.of(self.owner)) + len(self._features),
            len(self.runs.runs_of(self.owner)),
            len(self.texts.of(self.owner)),
        )

    @property
    def _features(self) -> list[feature_notes.FeatureNote]:
        return feature_notes.FeatureNotes(self.notes).of(self.owner)

    def archive(self) -> bytes:
        """Everything as a ZIP; Parquet files are stored as they are.

        Raises:
            LensError: a store cannot be read, or all of it is too large for one download.
        """
        own = self.runs.runs_of(self.owner)
        files = [(run, file) for run in own for file in _files(run.folder)]
        size = sum(file.stat().st_size for _, file in files if file.is_file())
        if size > MOST_BYTES:
            raise LensError(
                f"Your runs have {size:,} bytes; at most {MOST_BYTES:,} are packed for one "
                "download. Download single runs from their own pages, and delete them."
            )
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        texts = [asdict(text) for text in self.texts.of(self.owner)]
        with tempfile.TemporaryFile() as buffer:
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr("README.txt", README.format(when=when))
                archive.writestr("notes.json", as_json(self.notes.of(self.owner)))
                archive.writestr("features.json", feature_notes.as_json(self._features))
                archive.writestr("texts.json", json.dumps(texts, indent=1, ensure_ascii=False))
                for run, file in files:
                    try:
                        name = file.relative_to(run.folder).as_posix()
                        archive.write(file, f"runs/{run.id}/{name}")
                    except FileNotFoundError:
                        continue  # deleted meanwhile
            buffer.seek(0)
            return buffer.read()

    def delete(self) -> None:
        """Remove all of it for good.

        Raises:
            LensError: something cannot be removed; what came before it is gone.
        """
        self.notes.delete_all(self.owner)
        for text in self.texts.of(self.owner):
            self.texts.delete(text.id, self.owner)
        for run in self.runs.runs_of(self.owner):
            self.runs.delete(run.id, self.owner)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != LOCK)
