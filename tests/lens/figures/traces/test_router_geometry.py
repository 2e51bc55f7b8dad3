"""Figures of the border of a choice and of what each layer expects."""

from __future__ import annotations

import numpy as np
import pytest

from lens import figures
from tests.lens.figures.figure_reading import first, room, rows, selection, title_text

PIECES = ["▁the", "▁old", "\n", "▁sea"]
LABELS = ["L0", "L4", "L9"]


def ticks(push=(0.02, 0.005, 0.3, 0.08), random=None):
    drawn = np.linspace(0.2, 2, 40) if random is None else np.asarray(random)
    return figures.push_ticks(np.array(push), drawn, PIECES[: len(push)], token=1, label="L4")


def course(layer=1):
    return figures.logit_lens_by_layer(
        ["a", "▁b", "\n"],
        np.array([0.9, 0.5, 0.25]),
        np.array([8.0, 2.0, 0.0]),
        LABELS,
        layer=layer,
        usual=np.array([6.0, 3.0, 0.0]),
        after="▁sea",
    )


def test_every_token_has_a_tick_in_percent_and_a_click_chooses_it():
    chart = ticks()
    found = rows(first(chart, "tick"))
    assert [row["value"] for row in found] == pytest.approx([2, 0.5, 30, 8])
    assert [row["token"] for row in found] == [0, 1, 2, 3]
    assert selection(chart)["fields"] == ["token"]
    text = title_text(chart)
    assert "token 1, 0.5 %" in text and "40 directions between mixed experts" in text
    assert rows(first(chart, "rule"))[0]["value"] == pytest.approx(
        np.linspace(20, 200, 40)[20], rel=1e-5
    )


def test_directions_that_never_come_to_a_border_leave_the_rule_out():
    chart = ticks(random=np.full(9, np.inf))
    assert "rule" not in str(chart.to_dict()["layer"][-1]["mark"])
    assert "inf" in title_text(chart)
    low, high = room(chart)
    assert np.isfinite([low, high]).all() and low < high


def test_a_text_of_one_token_and_a_tie_are_drawn():
    chart = figures.push_ticks(np.array([0.0]), np.array([0.0]), ["a"], token=0, label="L0")
    low, high = room(chart)
    assert 0 < low < high


def test_the_course_shows_each_layers_likeliest_token_and_marks_the_chosen_layer():
    chart = course()
    found = rows(first(chart, "bar"))
    assert [row["y"] for row in found] == LABELS
    assert [row["value"] for row in found] == [8, 2, 0]
    assert found[1]["text"] == "·b  0.50" and found[2]["text"].startswith("\\n")
    assert found[0]["shade"] == found[2]["shade"] != found[1]["shade"]
    assert [row["value"] for row in rows(first(chart, "tick"))] == [6, 3, 0]
    assert selection(chart)["fields"] == ["layer"]


def test_the_course_is_told_to_readers_who_do_not_see_it():
    words = figures.alt_text(course())
    assert "L4 ·b (KL 2.00)" in words


def test_a_model_of_one_layer_has_a_course():
    one = np.array([0.0])
    chart = figures.logit_lens_by_layer(["a"], one + 1, one, ["L0"], layer=0, usual=one, after="b")
    assert room(chart)[0] > 0


def test_the_strip_marks_where_generated_text_begins_and_only_there():
    chart = figures.token_strip(["word"] * 9, figures.StripColours(np.arange(9.0)), prompt_length=4)
    box = rows(first(chart, "rect"))[4]
    (mark,) = rows(first(chart, "tick"))
    assert mark["line"] == box["line"] and mark["x"] == pytest.approx(box["x"] - 1.5)
    assert "from here on generated" in title_text(chart)
    plain = figures.token_strip(["word"] * 9, figures.StripColours(np.arange(9.0)), prompt_length=9)
    assert "generated" not in title_text(plain)
