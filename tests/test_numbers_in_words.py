"""Numbers are put into words in one place, so that pages, figures and reports write them alike."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What writes numbers for machines (files, widths of elements), or errors of files.
LEFT_OUT = (
    "lens/words.py",
    "lens/storage/csv_text.py",
    "lens/figures/theme.py",
    "lens/figures/printing.py",
    "lens/report/page.py",
    "lens/traces/trace_arrays.py",
    "pages/expert_views/takes.py",
)
DIGITS = re.compile(r"\.\d[fgeF%]")


def formatted(code: str) -> Iterator[int]:
    """Lines with a number whose digits are chosen in place."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            if DIGITS.search(ast.unparse(node.format_spec)):
                yield node.lineno


def test_digits_are_chosen_by_lens_words_alone():
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for folder in ("lens", "pages")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if str(file.relative_to(ROOT)) not in LEFT_OUT
        for line in formatted(file.read_text(encoding="utf-8"))
    ]
    assert not found, "use fixed, significant or percent of lens.words: " + ", ".join(found)


@pytest.mark.parametrize(
    ("code", "lines"), [('f"{a:.3f}"', [1]), ('f"{a:,} {b:>5}"', []), ('x\nf"{a:+.2g}"', [2])]
)
def test_a_format_in_place_is_seen(code, lines):
    assert list(formatted(code)) == lines
