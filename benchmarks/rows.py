"""Lines of a benchmark's table, some with a limit that must hold or an aim to reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        name: what was measured.
        value: the number.
        unit: its unit.
        limit: the value must not exceed it; the command fails otherwise.
        aim: the value should not exceed it.
        digits: after the decimal point.
        note: what else to know.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    aim: float | None = None
    digits: int = 1
    note: str = ""

    def text(self) -> str:
        """The number with its unit and note."""
        parts = [f"{self.value:,.{self.digits}f} {self.unit}".rstrip(), self.note]
        return ", ".join(part for part in parts if part)

    def verdict(self) -> str:
        """The limit or aim, and whether it is kept."""
        for bound, word in ((self.limit, "limit"), (self.aim, "aim")):
            if bound is not None:
                held = "held" if self.value <= bound else "NOT HELD"
                return f"{word} {bound:g} {self.unit}".rstrip() + f": {held}"
        return ""

    @property
    def broken(self) -> bool:
        """Whether a limit, not a mere aim, is passed."""
        return self.limit is not None and not self.value <= self.limit


def table(rows: Sequence[Row]) -> str:
    """Names, numbers and verdicts in columns."""
    name_width = max(len(row.name) for row in rows)
    text_width = max(len(row.text()) for row in rows)
    return "\n".join(
        f"{row.name:<{name_width}}  {row.text():<{text_width}}  {row.verdict()}".rstrip()
        for row in rows
    )


def exit_code(rows: Sequence[Row]) -> int:
    """1 when a limit is broken, else 0."""
    return int(any(row.broken for row in rows))
