"""The files of a database of features; docs/formats.md says what each column is.

Every table is sorted by group and feature, or by what it is asked for, and cut into small row
groups, so that a question about one feature reads one of them. `features.json` is written last and
holds the hash of each file: a folder is complete when they fit.

No JAX here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grok.errors import GrokError
from grok.files import write_whole

FORMAT_VERSION = 1
MANIFEST = "features.json"
# Rows of a row group of each table.
ROWS = {
    "features": 512,
    "examples": 4096,
    "judged": 16_384,
    "routes": 8192,
    "logits": 16_384,
    "windows": 1024,
    "pieces": 65_536,
}


def listed(values: np.ndarray, counts: np.ndarray, kind: Any) -> pa.ListArray:
    """A column of lists: values one after the other, so many in each row."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind))


def of_rows(row: np.ndarray, rows: int, values: np.ndarray, kind: Any) -> pa.ListArray:
    """A column of lists from values and the sorted rows that they belong to."""
    return listed(values, np.bincount(row, minlength=rows), kind)


def write_table(folder: Path, name: str, columns: Mapping[str, Any]) -> None:
    """Writes a table as NAME.parquet."""
    table = pa.table(dict(columns))
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 9,
        "write_page_checksum": True,
        "row_group_size": ROWS[name],
    }
    write_whole(folder / f"{name}.parquet", lambda stream: pq.write_table(table, stream, **options))


def write_manifest(folder: Path, facts: Mapping[str, Any], names: Sequence[str]) -> None:
    """Writes `features.json` for the tables of a folder.

    Raises:
        GrokError: it cannot be written.
    """
    files = {}
    for name in names:
        content = (folder / f"{name}.parquet").read_bytes()
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    text = {"format_version": FORMAT_VERSION, **facts, "files": files}
    try:
        write_whole(folder / MANIFEST, json.dumps(text, indent=1).encode())
    except OSError as error:
        raise GrokError(f"{folder / MANIFEST}: not written ({error.strerror}).") from error
