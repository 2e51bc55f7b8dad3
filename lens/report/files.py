"""A folder of figures, tables, their index and a page: written whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from lens import figures
from lens.errors import LensError
from lens.report.page import Entry
from lens.report.parts import Part

PNG_SCALE = 2

Progress = Callable[[int, int, str], None]
Page = Callable[[Sequence[Entry], dict[str, str], Path], str]


def write_folder(
    folder: str | os.PathLike[str],
    parts: Sequence[Part],
    about: dict[str, Any],
    page: Page,
    *,
    page_file: str,
    index_file: str,
    title: str,
    progress: Progress | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Writes parts as PNG and SVG or CSV, then a page and an index of them.

    All of it is made in a folder of its own first and moved into place at the end. Files
    of other names that are in the folder already stay.

    Args:
        folder: made if it does not exist, with its parents.
        parts: what to write; one that raises a LensError is left out, with the reason.
        about: what it was computed from; kept in the index and inside every image.
        page: makes the page from what was written, what was left out, and where it lies.
        page_file, index_file: names of the page and of the index.
        title: of the page.
        progress: called with parts done, parts in all, and the next name.

    Returns:
        Names of all files, and the reasons of what was left out.

    Raises:
        LensError: the folder cannot be written.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise LensError(f"{target} is a file; expected a folder, or a name not taken yet.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise LensError(
            f"{target}: {error.strerror}. Choose a folder that you may write to."
        ) from error
    work = holder / "report"
    try:
        work.mkdir()  # with the permissions of any new folder, unlike its holder
        entries, skipped = _write_parts(parts, work, about, progress)
        (work / page_file).write_text(page(_named(entries), skipped, work), encoding="utf-8")
        entries.append({"file": page_file, "title": title})
        index = {**about, "files": entries, "skipped": skipped}
        text = json.dumps(index, indent=1, ensure_ascii=False)
        (work / index_file).write_text(text + "\n", encoding="utf-8")
        names = sorted(path.name for path in work.iterdir())
        _move_in(work, target)
    except OSError as error:
        raise LensError(
            f"{target}: {error.strerror}. Nothing was changed; free some space or choose another "
            "folder."
        ) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)
    return names, skipped


def _write_parts(
    parts: Sequence[Part],
    work: Path,
    about: dict[str, Any],
    progress: Progress | None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    entries: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for done, part in enumerate(parts):
        if progress is not None:
            progress(done, len(parts), part.name)
        try:
            made = part.make()
        except LensError as error:
            skipped[part.name] = str(error)
            continue
        note = {**about, "figure": part.name, "settings": {**about["settings"], **part.settings}}
        contents, described = _contents(made, note)
        for suffix, content in contents.items():
            (work / f"{part.name}{suffix}").write_bytes(content)
            entries.append(
                {
                    "file": f"{part.name}{suffix}",
                    "section": part.section,
                    "settings": note["settings"],
                    **described,
                }
            )
    return entries, skipped


def _named(entries: Sequence[dict[str, Any]]) -> list[Entry]:
    """Entries of the written files, those of one name together."""
    named: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        named.setdefault(entry["file"].rpartition(".")[0], []).append(entry)
    return [
        Entry(
            name,
            same[0]["section"],
            tuple(entry["file"] for entry in same),
            same[0].get("title", ""),
            same[0].get("description", ""),
        )
        for name, same in named.items()
    ]


def _contents(
    made: alt.TopLevelMixin | str, note: dict[str, Any]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files of a part by suffix, and what the index says of a figure."""
    if isinstance(made, str):
        return {".csv": made.encode("utf-8")}, {}
    figure = figures.written(made, PNG_SCALE, note=note)
    described = {"title": figure.title, "description": figures.alt_text(made)}
    return {".png": figure.png, ".svg": figure.svg.encode("utf-8")}, described


def _move_in(work: Path, target: Path) -> None:
    """Moves finished files into the target; if one cannot be moved, takes all back."""
    if not target.exists():
        os.rename(work, target)
        return
    kept = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    moved: list[str] = []
    try:
        for path in sorted(work.iterdir()):
            place = target / path.name
            if place.exists():
                os.rename(place, kept / path.name)
            moved.append(path.name)
            os.rename(path, place)
    except OSError:
        for name in moved:
            (target / name).unlink(missing_ok=True)
            if (kept / name).exists():
                os.rename(kept / name, target / name)
        raise
    finally:
        shutil.rmtree(kept, ignore_errors=True)
