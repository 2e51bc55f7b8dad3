"""Figures of two runs put the same tokens below each other and leave gaps where one has none."""

from __future__ import annotations

import numpy as np
import pytest

from lens.figures import alt_text, theme
from lens.figures.prompt_pairs.routing import (
    aligned_strip,
    load_differences,
    pair_map,
    pair_names,
    pair_window,
)
from lens.figures.prompt_pairs.tokens import change_along, kept_by_distance, next_tokens_of_both
from lens.prompt_pairs.alignment import align, same_place
from tests.lens.figures.figure_reading import first, mark, marks, rows, selection, title_text, views

LABELS = ["L0", "L4", "L8"]
A, B = ["▁the", "▁old", "▁cat", "\n"], ["▁the", "▁cat", "!", "▁sat"]
IDS = np.array([1, 2, 3, 4]), np.array([1, 3, 5, 6])


@pytest.fixture
def alignment():
    return align(*IDS)  # the same, deleted, the same, then a substituted and an inserted one


def test_pairs_are_named_by_place_and_text_and_each_name_is_there_once(alignment):
    names = pair_names(A, B, alignment)
    assert names[:3] == ["0 ·the", "1|– ·old | –", "2|1 ·cat"]
    assert len(set(names)) == alignment.n_pairs == 5
    assert pair_names(["a"] * 3, ["a"] * 3, same_place(3)) == ["0 a", "1 a", "2 a"]


def test_the_strip_has_a_box_for_every_token_and_none_where_a_text_has_none(alignment):
    moved = np.array([0.0, np.nan, 0.5, np.nan, np.nan])
    chart = aligned_strip(A, B, alignment, moved, names=("old", "new"))
    boxes = rows(first(chart, "rect"))
    assert [b["piece"] for b in boxes if b["text"] == "old"] == ["·the", "·old", "·cat", "\\n"]
    assert [b["piece"] for b in boxes if b["text"] == "new"] == ["·the", "·cat", "!", "·sat"]
    assert {b["pair"]: b["value"] for b in boxes} == {0: 0, 1: None, 2: 0.5, 3: None, 4: None}
    for pair in (0, 2):
        one, other = (b for b in boxes if b["pair"] == pair)
        assert one["x"] == other["x"] and one["x2"] == other["x2"] and one["y2"] <= other["y"]
    assert selection(chart)["fields"] == ["pair"]
    assert "2 tokens the same" in alt_text(chart)


def test_a_long_pair_of_texts_wraps_and_is_drawn_in_part_around_the_picked_token():
    n = 5000
    moved = np.zeros(n)
    chart = aligned_strip(["w"] * n, ["w"] * n, same_place(n), moved, picked=4000)
    assert marks(chart) <= theme.MAX_MARKS + 10
    boxes = rows(first(chart, "rect"))
    window = pair_window(n, picked=4000)
    assert {b["pair"] for b in boxes} == set(window) and 4000 in window
    assert f"Tokens {window.start} to {window.stop - 1} of 5000" in title_text(chart)
    assert max(b["x2"] for b in boxes) <= 1040 and max(b["y2"] for b in boxes) > 1000
    assert len([v for v in views(chart.to_dict()) if len(rows(v)) == 1]) == 2  # the outline


@pytest.mark.parametrize("what", ["margin", "lead", "entropy", "top1_prob", "kept"])
def test_the_map_has_cells_for_the_same_tokens_alone_and_columns_for_all(alignment, what):
    values = np.full((3, 5), np.nan)
    values[:, [0, 2]] = np.random.default_rng(0).uniform(0, 1, (3, 2))
    names = pair_names(A, B, alignment)
    chart = pair_map(values, what, names, LABELS, picked=(2, 1))
    cells = first(chart, "rect")
    assert {(c["pair"], c["layer"]) for c in rows(cells)} == {
        (p, layer) for p in (0, 2) for layer in range(3)
    }
    for cell in rows(cells):
        assert cell["value"] == pytest.approx(values[cell["layer"], cell["pair"]], rel=1e-5)
    assert cells["encoding"]["x"]["scale"]["domain"] == names
    assert selection(chart)["fields"] == ["pair", "layer"]
    domain = cells["encoding"]["color"]["scale"]["domain"]
    assert domain == [0, 1] if what == "kept" else domain[0] == -domain[1]


def test_loads_that_differ_by_more_than_chance_carry_a_dot():
    difference = np.array([[0.1, -0.1, 0.0], [0.02, 0.0, -0.02]])
    q = np.array([[0.01, 0.04, np.nan], [0.5, np.nan, 0.5]])
    chart = load_differences(difference, q, ["L0", "L1"], runs=("one", "other"))
    dots = first(chart, "text")
    assert "datum.q <= 0.05" in str(dots["transform"])
    assert [r["q"] for r in rows(dots)] == [0.01, 0.04, None, 0.5, None, 0.5]
    assert "2 of 4 that differ at all" in title_text(chart)
    assert "one less other" in title_text(chart)
    wide = load_differences(np.zeros((64, 256)), np.ones((64, 256)), [f"L{i}" for i in range(64)])
    assert marks(wide) <= theme.MAX_MARKS


def test_bars_of_change_stand_at_the_compared_pairs_beside_the_band_of_unrelated_places():
    names = [f"{i} w" for i in range(6)]
    low, high = np.array([0.1, 0.4, 0.0]), np.array([0.2, 0.9, 0.5])
    chart = change_along([1, 3, 5], low, high, names, chance=(0.7, 0.6, 0.8), picked=3)
    bars = rows(first(chart, "bar"))
    assert [b["pair"] for b in bars] == [1, 3, 5]
    assert [b["low"] for b in bars] == pytest.approx([0.1, 0.4, 0.0])
    assert [b["shade"] for b in bars] == [theme.BLUE, theme.ORANGE, theme.BLUE]
    band = rows(first(chart, "rect"))
    assert band == [{"low": 0.6, "high": 0.8, "mean": 0.7}]
    assert "band (0.70)" in title_text(chart)
    assert "rect" not in {
        mark(v) for v in views(change_along([1], low[:1], high[:1], names).to_dict())
    }


def test_a_next_token_that_a_run_does_not_list_is_drawn_as_at_most():
    chart = next_tokens_of_both(
        ["▁a", "▁b"],
        np.array([0.5, np.nan]),
        np.array([0.2, 0.3]),
        most_before=0.1,
        most_after=0.05,
        runs=("as it is", "changed"),
        after_token="▁the",
    )
    bars = rows(first(chart, "bar"))
    found = {(b["name"], b["run"]): (b["value"], b["listed"]) for b in bars}
    assert found[("2  ·b", "as it is")] == (0.1, "at most")
    assert found[("2  ·b", "changed")] == (0.3, "exactly")
    assert "after “·the”" in title_text(chart)


def test_tokens_stand_at_their_distance_beside_the_level_of_unrelated_ones():
    distance, kept = np.arange(1, 41), np.linspace(0.2, 0.9, 40)
    chart = kept_by_distance(
        distance,
        kept,
        [f"{i} w" for i in range(40)],
        chance=0.3,
        correlation=-0.5,
        low=-0.2,
        high=0.2,
        p=0.01,
    )
    points = rows(first(chart, "circle"))
    assert [p["distance"] for p in points] == distance.tolist()
    assert rows(first(chart, "rule")) == [{"kept": 0.3}]
    means = rows(first(chart, "line"))
    assert len(means) == 6 and means[0]["kept"] < means[-1]["kept"]
    assert "rank correlation −0.50, by chance −0.20 to +0.20" in title_text(chart)


def test_no_text_has_a_colour_that_one_of_the_themes_hides(alignment):
    moved = np.array([0.0, np.nan, 0.5, np.nan, np.nan])
    charts = [
        aligned_strip(A, B, alignment, moved),
        pair_map(np.zeros((3, 5)), "margin", pair_names(A, B, alignment), LABELS),
        next_tokens_of_both(["a"], np.ones(1), np.ones(1), most_before=0, most_after=0),
    ]
    for chart in charts:
        for view in views(chart.to_dict()):
            if mark(view) == "text":
                fixed = view["mark"].get("color")
                assert fixed in (None, theme.MID_GREY)
