"""Text of tables: numbers and words come back as they were."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
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


def test_pandas_reads_a_table_back_with_short_headers():
    columns = {
        "piece": ["#5", 'a "b"', "c,d", "# not a comment"],
        "q (Benjamini–Hochberg over layers)": [0.1, np.nan, 1e-9, 1.0],
        "q, unrelated directions (199 draws)": np.arange(4),
        "change of P(selected), isotropic prior": [True, False, True, True],
    }
    text = csv_text.table_csv(columns)
    found = pd.read_csv(io.StringIO(text), comment="#")
    assert list(found) == [
        "piece",
        "q",
        "q_unrelated_directions",
        "change_of_P_selected_isotropic_prior",
    ]
    assert found.piece.tolist() == columns["piece"]
    np.testing.assert_array_equal(found.q, columns["q (Benjamini–Hochberg over layers)"])
    notes = [line for line in text.splitlines() if line.startswith("# ")]
    assert notes[0] == "# q: q (Benjamini–Hochberg over layers)"
    assert len(notes) == 3  # "piece" needs none


def test_headers_that_are_the_same_without_their_brackets_keep_them():
    text = csv_text.table_csv({"p (one)": [1], "p (two)": [2], "z (of\n1,2)": [3]})
    found = pd.read_csv(io.StringIO(text), comment="#")
    assert found.columns.tolist() == ["p_one", "p_two", "z"]
    assert found.to_numpy().tolist() == [[1, 2, 3]]


def test_a_matrix_says_what_its_numbers_are():
    text = csv_text.matrix_csv(np.eye(2), ["a", "#b"], ["L0", "L1"], "margin (logits)")
    found = pd.read_csv(io.StringIO(text), comment="#", index_col=0)
    assert text.startswith("# margin: margin (logits)\n") and found.index.tolist() == ["a", "#b"]
    np.testing.assert_array_equal(found, np.eye(2))
