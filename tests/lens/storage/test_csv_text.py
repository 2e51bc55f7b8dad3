"""Text of tables: numbers and words come back as they were."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from lens.storage import csv_text


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_float32_values_come_back_exactly():
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    back = np.array([row[0] for row in read(csv_text.table_csv({"x": values}))[1:]], np.float32)
    assert np.array_equal(back, values)


def test_text_with_commas_quotes_and_line_ends_comes_back():
    pieces = ["a,b", 'say "x"', "two\nlines", "мир"]
    assert [row[0] for row in read(csv_text.table_csv({"piece": pieces}))[1:]] == pieces


def test_values_that_are_not_numbers_are_empty_fields():
    assert read(csv_text.table_csv({"a": ["x"] * 3, "b": [np.nan, np.inf, 1.5]}))[1:] == [
        ["x", ""],
        ["x", ""],
        ["x", "1.5"],
    ]


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError):
        csv_text.table_csv({"a": [1], "b": [1, 2]})
