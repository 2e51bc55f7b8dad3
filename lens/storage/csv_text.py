"""Tables and matrices as CSV text that programs and spreadsheets read back as it was.

Headers are short, of letters, digits and "_". What stands behind one (unit, null, draws) is on a
line of its own above them, which begins with "#": `pandas.read_csv(file, comment="#")`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def table_csv(columns: Mapping[str, Any]) -> str:
    """Columns of equal length as CSV.

    Args:
        columns: values by their names in full, as "q (Benjamini–Hochberg over layers)"; the
            header has them without what is in brackets.
    """
    short = _headers(list(columns))
    notes = [note for pair in zip(short, columns, strict=True) for note in _note(*pair)]
    return _text(notes, [short, *zip(*(list(c) for c in columns.values()), strict=True)])


def matrix_csv(
    matrix: Float[np.ndarray, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    corner: str,
) -> str:
    """A matrix as CSV with names on both sides; the corner says what the numbers are."""
    (short,) = _headers([corner])
    body = ([name, *values] for name, values in zip(rows, matrix, strict=True))
    return _text(_note(short, corner), [[short, *columns], *body])


def read_csv(text: str) -> list[list[str]]:
    """The rows of such a text, the first of them the columns' names in full."""
    lines = text.splitlines(keepends=True)
    first = next((n for n, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    whole = dict(line[2:].rstrip().split(": ", 1) for line in lines[:first])
    rows = list(csv.reader(io.StringIO("".join(lines[first:]))))
    return [[whole.get(name, name) for name in row] for row in rows[:1]] + rows[1:]


def _headers(names: Sequence[str]) -> list[str]:
    """Short headers, each of its own."""
    short = [_words(re.sub(r"\s+\([^)]*\)", "", name)) for name in names]
    count = Counter(short)
    return [_words(name) if count[one] > 1 else one for one, name in zip(short, names, strict=True)]


def _words(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_") or "value"


def _note(short: str, name: str) -> list[str]:
    """The line that says what a short header stands for, where it leaves something out."""
    whole = " ".join(name.split())
    return [] if short == whole.replace(" ", "_") else [f"# {short}: {whole}"]


def _text(notes: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [",".join(map(_field, row)) or '""' for row in rows]
    return "\n".join([*notes, *lines, ""])


def _field(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{float(value):.9g}" if np.isfinite(value) else ""
    text = "" if value is None else str(value)
    if any(sign in text for sign in ',"\r\n#'):  # a "#" would begin a comment
        return '"' + text.replace('"', '""') + '"'
    return text
