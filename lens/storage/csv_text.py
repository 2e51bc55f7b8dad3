"""Tables and matrices as CSV text that spreadsheets open safely."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def table_csv(columns: Mapping[str, Any]) -> str:
    """Columns of equal length as CSV, their names (with units) as the header row."""
    return _text([list(columns), *zip(*(list(c) for c in columns.values()), strict=True)])


def matrix_csv(
    matrix: Float[np.ndarray, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    corner: str,
) -> str:
    """A matrix as CSV with names on both sides; the corner says what the numbers are."""
    body = ([name, *values] for name, values in zip(rows, matrix, strict=True))
    return _text([[corner, *columns], *body])


def _text(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([_field(value) for value in row] for row in rows)
    return out.getvalue()


def _field(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return f"{float(value):.9g}" if np.isfinite(value) else ""
    return value
