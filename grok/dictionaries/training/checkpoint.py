"""State of a run on disk: whole or not at all, and everything that the next step depends on.

`state.npz` holds parameters, Adam's moments, counters and what the run measured at its start, and
the settings it belongs to; `log.parquet` its numbers. The order of the text is a function of seed
and step, so it needs no state.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from grok.errors import GrokError
from grok.files import write_whole

STATE, LOG = "state.npz", "log.parquet"
FORMAT_VERSION = 1


def save_state(folder: Path, tree: Any, identity: Mapping[str, Any]) -> None:
    """Writes a pytree of arrays; an older state stays until this one is whole.

    Args:
        folder: of the run.
        tree: everything that changes or was measured.
        identity: settings, model and text that it belongs to.

    Raises:
        GrokError: it cannot be written.
    """
    arrays = {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    text = {"format_version": FORMAT_VERSION, "identity": identity, "tree": _described(tree)}
    arrays["text"] = np.array(json.dumps(text, sort_keys=True))
    try:
        write_whole(folder / STATE, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    except OSError as error:
        raise GrokError(
            f"{folder / STATE}: the checkpoint was not written ({error.strerror or error}); the "
            "one before it is whole. Make room and go on with --resume."
        ) from error


def load_state(folder: Path, like: Any, identity: Mapping[str, Any]) -> Any | None:
    """The pytree of a run, or None where there is none.

    Args:
        folder: of the run.
        like: a pytree of the same structure, shapes and dtypes.
        identity: see `save_state`.

    Raises:
        GrokError: the file is damaged, or of another run.
    """
    file = folder / STATE
    if not file.exists():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as entries:
            text = json.loads(str(entries["text"]))
            leaves = [entries[name] for name in sorted(entries.files) if name != "text"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise GrokError(
            f"{file}: not a checkpoint ({str(error):.100}). Remove {folder} to begin again."
        ) from error
    if text.get("format_version") != FORMAT_VERSION:
        raise GrokError(f"{file}: format {text.get('format_version')!r:.20}; begin again.")
    for name, value in identity.items():
        found = text["identity"].get(name)
        if found != json.loads(json.dumps(value)):
            raise GrokError(
                f"{folder}: the run was begun with {name} {_short(found, value)}. Go on with what "
                "it was begun with, or choose another --output."
            )
    if text["tree"] != _described(like):
        raise GrokError(f"{file}: its arrays are not those of these settings; begin again.")
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _described(tree: Any) -> list[str]:
    """Shape and dtype of each leaf."""
    leaves = [
        leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in jax.tree.leaves(tree)
    ]
    return [f"{tuple(leaf.shape)} {np.dtype(leaf.dtype)}" for leaf in leaves]


def _short(found: Any, asked: Any) -> str:
    """Where two values differ, in few words."""
    if isinstance(found, dict) and isinstance(asked, dict):
        for name in asked:
            if found.get(name) != json.loads(json.dumps(asked[name])):
                return f"{name}: {_short(found.get(name), asked[name])}"
    return f"{found!r:.60}, not {asked!r:.60}"


def write_log(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes the log of a run, whole or not at all.

    Raises:
        GrokError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([dict(row) for row in rows])
    try:
        write_whole(folder / LOG, lambda file: pq.write_table(table, file))
    except OSError as error:
        raise GrokError(f"{folder / LOG}: not written ({error.strerror or error}).") from error


def read_log(folder: Path, before: int) -> list[dict[str, float]]:
    """The lines of a run's log up to a step; none where there is no log."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A whole table would take a library more to import.
        rows: list[dict[str, float]] = pq.ParquetFile(folder / LOG).read().to_pylist()
    except (OSError, pa.ArrowException):
        return []
    return [row for row in rows if row["step"] <= before]
