"""Figures of the words of experts hold the numbers, and say what chance is."""

from __future__ import annotations

import numpy as np

from lens.figures.traces.expert_words import word_bars, word_map
from tests.lens.figures.figure_reading import first, mark, rows, selection, title_text, views

LABELS = ["L2", "L5"]
BEST = [["▁the", "", "averyverylongword"], ["\n", "x", ""]]
FOUND = np.array([[4, 0, 1], [2, 9, 0]])


def drawn_map(**options):
    return word_map(FOUND, BEST, LABELS, n_words=40, chance="words shuffled", **options)


def test_the_map_counts_words_and_prints_the_surest_of_each_expert():
    cells = rows(first(drawn_map(), "rect"))
    assert [(cell["a"], cell["b"], cell["value"]) for cell in cells[:4]] == [
        ("L2", "E0", 4),
        ("L2", "E1", 0),
        ("L2", "E2", 1),
        ("L5", "E0", 2),
    ]
    assert [cell["word"] for cell in cells] == [
        "·the",
        "",
        "averyverylongword",
        "\\n",
        "x",
        "",
    ]
    assert cells[2]["short"].endswith("…") and len(cells[2]["short"]) <= 9
    assert (cells[4]["layer"], cells[4]["expert"]) == (1, 1)


def test_the_map_says_what_chance_is_and_that_numbers_carry_no_meaning():
    text = title_text(drawn_map())
    assert "of 40 tested" in text and "words shuffled; q ≤ 0.05 over all experts" in text
    assert "carry no meaning across layers" in text
    assert "16 pairs of expert and word at q ≤ 0.05, of 240" in drawn_map().to_dict()["description"]


def test_a_click_picks_layer_and_expert_and_the_chosen_cell_is_outlined():
    assert selection(drawn_map())["fields"] == ["layer", "expert"]
    plain, picked = drawn_map(), drawn_map(picked=(1, 2))
    assert len(views(picked.to_dict())) == len(views(plain.to_dict())) + 2
    assert rows(views(picked.to_dict())[-1]) == [{"a": "L5", "b": "E2"}]


def test_a_map_without_any_word_and_one_of_many_experts_are_drawn():
    nothing = word_map(
        np.zeros((1, 3), int), [["", "", ""]], ["L0"], n_words=5, chance="words shuffled"
    )
    assert {row["value"] for row in rows(first(nothing, "rect"))} == {0}
    many = word_map(
        np.ones((2, 128), int), [["w"] * 128] * 2, LABELS, n_words=5, chance="words shuffled"
    )
    assert "text" not in [mark(view) for view in views(many.to_dict())]


def test_bars_stand_beside_chance_and_are_blue_where_they_differ():
    chart = word_bars(
        ["▁a", "b", "b"],
        np.array([1.0, 0.5, 0.25]),
        np.array([0.3, 0.3, 0.2]),
        np.array([9, 8, 7]),
        np.array([1e-9, 0.04, 0.9]),
        label="L2·E1",
    )
    bars, ticks = rows(first(chart, "bar")), first(chart, "tick")
    assert [bar["name"] for bar in bars] == ["“·a”", "“b”", "“b” (2)"]
    assert [bar["sure"] for bar in bars] == [True, True, False]
    assert [bar["chance"] for bar in bars] == [0.3, 0.3, 0.2]
    assert ticks["encoding"]["x"]["field"] == "chance"
    assert "orange: by chance" in title_text(chart)
    assert "2 at q ≤ 0.05" in chart.to_dict()["description"]
