"""Questions to the Parquet files of a database, asked with DuckDB in place.

One connection may read the database's folder and nothing else. Statements are texts of this
program, and values are bound, so that no text of a user becomes part of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from grok.errors import plain
from grok.files import set_aside
from lens.errors import LensError
from lens.features.summary import ADVICE, Summary
from lens.storage.parquet_questions import MEMORY, asking

READ_AT_ONCE = 2**22

# Columns that are asked for, of each table.
COLUMNS = {
    "features": (
        "group", "feature", "layer", "n", "rate", "mean", "max", "bin_first", "bins",
        "label_rates", "by_domain", "by_token", "by_pair", "near", "near_cosine", "with",
        "with_pmi", "with_jaccard", "words", "word_shares", "push", "push_layer", "push_expert",
        "excess", "associations", "flips", "flips_layer",
    ),
    "examples": (
        "group", "feature", "kind", "rank", "window", "position", "value", "start", "values",
    ),
    "routes": (
        "group", "feature", "layer", "expert", "static", "push", "share", "excess", "log10_p",
        "log10_q", "flips",
    ),
    "logits": ("token", "group", "feature", "value"),
    "windows": ("window", "label", "held_out", "tokens"),
    "pieces": ("piece",),
}  # fmt: skip
COLUMNS["judged"] = COLUMNS["examples"]
EXPLANATIONS = "explanations"
COLUMNS[EXPLANATIONS] = (
    "group", "feature", "text", "explainer", "detection", "low", "high", "fuzzing", "contexts",
)  # fmt: skip

TEXTS = ("piece", "text", "explainer")
LISTS = (
    "bins", "label_rates", "near", "near_cosine", "with", "with_pmi", "with_jaccard", "words",
    "word_shares", "raised", "raised_by", "lowered", "lowered_by", "values", "tokens",
)  # fmt: skip


class Tables:
    """The tables of a folder.

    Args:
        folder: of the database.
        summary: of it; every file is held against its hash and its columns.

    Raises:
        LensError: a file is missing, damaged (it is set aside then), or not what it should be.
    """

    def __init__(self, folder: Path, summary: Summary) -> None:
        self.folder = folder
        self._files = {}
        for name, (sha256, size) in summary.files.items():
            self._files[name] = self._checked(name, sha256, size)

    @property
    def names(self) -> tuple[str, ...]:
        """Tables that there are."""
        return tuple(self._files)

    def columns(self, name: str) -> frozenset[str]:
        """Names of the columns of a table."""
        return frozenset(dict(_columns(str(self._files[name]), *_identity(self._files[name]))))

    def has_explanations(self) -> bool:
        """Whether explanations stand beside the database, whole."""
        file = self.folder / f"{EXPLANATIONS}.parquet"
        if not file.is_file():
            self._files.pop(EXPLANATIONS, None)
            return False
        self._check_columns(EXPLANATIONS, file)
        self._files[EXPLANATIONS] = file
        return True

    def ask(self, statement: str, **values: Any) -> dict[str, Any]:
        """The columns of the answer, by name: arrays, and lists of arrays.

        Args:
            statement: SQL; `$features`, `$examples` and so on stand for the tables, as in
                `FROM read_parquet($features)`.
            values: what its other parameters stand for.

        Raises:
            LensError: a file cannot be read.
        """
        import duckdb

        files = {n: str(f) for n, f in self._files.items() if f"read_parquet(${n})" in statement}
        try:
            with asking(self.folder) as cursor:
                table = cursor.sql(statement, params=files | values).to_arrow_table()
        except duckdb.OutOfMemoryException as error:
            raise LensError(
                f"{self.folder}: too large for the {MEMORY} that a question may take. Ask for less."
            ) from error
        except (duckdb.PermissionException, duckdb.ParserException):
            raise  # a statement of the program's own is wrong
        except duckdb.Error as error:
            raise LensError(
                f"{self.folder}: the tables cannot be read ({plain(str(error), 120)}). {ADVICE}"
            ) from error
        with damage_in_words(self.folder):
            return {name: _column(table.column(name)) for name in table.column_names}

    def _checked(self, name: str, sha256: str, size: int) -> Path:
        file = self.folder / f"{name}.parquet"
        try:
            found = file.stat()
            same = found.st_size == size and _sha256(str(file), *_identity(file)) == sha256
        except OSError as error:
            raise LensError(f"{file}: cannot be read ({error.strerror}). {ADVICE}") from error
        if not same:
            aside = set_aside(file)
            where = f"; it is set aside as {aside.name}" if aside else ""
            raise LensError(f"{file}: not the file that was written{where}. {ADVICE}")
        self._check_columns(name, file)
        return file

    def _check_columns(self, name: str, file: Path) -> None:
        try:
            own = dict(_columns(str(file), *_identity(file)))
        except Exception as error:  # pyarrow raises a dozen kinds for what is no Parquet
            aside = set_aside(file)
            where = f" and is set aside as {aside.name}" if aside else ""
            raise LensError(
                f"{file}: no Parquet file{where} ({plain(str(error), 80)}). {ADVICE}"
            ) from error
        for column in dict.fromkeys((*COLUMNS[name], *own)):
            expected = "text" if column in TEXTS else "list" if column in LISTS else "number"
            found = own.get(column, "missing")
            if found != expected:
                raise LensError(
                    f"{file}: column {plain(column, 40)} is {found}; expected {expected}. {ADVICE}"
                )


@contextmanager
def damage_in_words(folder: Path) -> Iterator[None]:
    """Says of values that no table of this program holds that the database is damaged.

    Files have hashes, but who wrote them wrote those too.
    """
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise LensError(
            f"{folder}: the tables hold what cannot be ({plain(str(error), 80)}). {ADVICE}"
        ) from error


def _column(column: Any) -> Any:
    """A column as an array, or a list of arrays where its cells are lists."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        whole = column.combine_chunks()
        if isinstance(whole, pa.ChunkedArray):
            whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], kind)
        values = whole.values.to_numpy(zero_copy_only=False)
        offsets = whole.offsets.to_numpy()
        return [values[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    return column.to_numpy() if len(column) else np.zeros(0)


def _identity(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=256)
def _sha256(file: str, size: int, modified: int, inode: int) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while content := stream.read(READ_AT_ONCE):
            digest.update(content)
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _columns(file: str, size: int, modified: int, inode: int) -> tuple[tuple[str, str], ...]:
    """Names of the columns of a file, and what is in them: text, number, list, or another kind."""
    import pyarrow.parquet as pq

    return tuple((one.name, _kind(one.type)) for one in pq.read_schema(file))


def _kind(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_list(kind):
        return "list" if _kind(kind.value_type) == "number" else "list of other kinds"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return "number"
    return "text" if pa.types.is_string(kind) else "another kind"
