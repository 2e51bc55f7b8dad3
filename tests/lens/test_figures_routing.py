"""Figures of a prompt show every token's values, prompt and answer apart."""

from __future__ import annotations

import numpy as np
import pytest
from figure_reading import first, mark, marks, rows, selection, title_text, views

from lens import figures
from lens.errors import LensError

LABELS = ["L0", "L4", "L8"]
PIECES = ["▁the", "\n", "cat", '"', "мир"]


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 2, (3, 5))


def test_token_map_holds_every_cell(values):
    chart = figures.token_layer_map(values, "margin", PIECES, LABELS)
    cells = rows(first(chart, "rect"))
    assert len(cells) == 15
    for cell in cells:
        assert cell["value"] == pytest.approx(values[cell["layer"], cell["token"]], rel=1e-5)
        assert cell["y"] == LABELS[cell["layer"]]
    assert selection(chart)["fields"] == ["token", "layer"]


def test_prompt_and_generated_tokens_are_set_apart_by_a_column_without_cells(values):
    cells = first(
        figures.token_layer_map(values, "margin", PIECES, LABELS, prompt_length=3), "rect"
    )
    columns = cells["encoding"]["x"]["scale"]["domain"]
    assert len(columns) == 6
    assert columns[3] == "generated:"
    assert columns[3] not in {cell["x"] for cell in rows(cells)}
    assert {c["token"] for c in rows(cells) if c["part"] == "generated"} == {3, 4}


def test_tokens_of_the_same_text_keep_columns_of_their_own(values):
    chart = figures.token_layer_map(values, "margin", ["a"] * 5, LABELS)
    assert len({cell["x"] for cell in rows(first(chart, "rect"))}) == 5


def test_first_choices_carry_digit_and_okabe_ito_colour_without_black():
    experts = np.array([[0, 7, 9, 3, 4]])
    chart = figures.token_layer_map(experts, "top1", PIECES, ["L0"])
    cells = rows(first(chart, "rect"))
    assert [c["shade"] for c in cells] == [figures.OKABE_ITO[e % 8] for e in experts[0]]
    assert "#000000" not in figures.OKABE_ITO
    assert len(set(figures.OKABE_ITO)) == 8
    digits = first(chart, "text")
    assert digits["encoding"]["text"]["field"] == "value"
    assert [c["value"] for c in rows(digits)] == [0, 7, 9, 3, 4]


def test_entropy_colours_run_to_the_logarithm_of_the_number_of_experts(values):
    chart = figures.token_layer_map(values, "entropy", PIECES, LABELS, n_experts=8)
    domain = first(chart, "rect")["encoding"]["color"]["scale"]["domain"]
    assert domain == pytest.approx([0, np.log(8)])


def test_a_long_prompt_is_drawn_in_part_and_the_part_holds_the_picked_token():
    values = np.zeros((64, 500))
    pieces, labels = ["x"] * 500, [f"L{i}" for i in range(64)]
    chart = figures.token_layer_map(values, "top1", pieces, labels, picked=(400, 3))
    assert marks(chart) <= 20_002
    window = figures.token_window(500, 64, picked=400)
    assert 400 in window
    assert {c["token"] for c in rows(first(chart, "rect"))} == set(window)
    assert f"Tokens {window.start} to {window.stop - 1} of 500" in title_text(chart)
    assert figures.token_window(500, 64, start=10_000).stop == 500
    assert figures.token_window(20, 64) == range(20)


def test_pieces_that_do_not_fit_the_tokens_are_refused(values):
    with pytest.raises(LensError, match="4 pieces of text for 5 tokens"):
        figures.token_layer_map(values, "margin", PIECES[:4], LABELS)


@pytest.mark.parametrize("piece", ["\x00", "\ud800", "\ue000", "a\nb", "\u202e", "x" * 500])
def test_any_piece_becomes_short_text_that_can_be_exported(piece):
    shown = figures.visible(piece)
    assert 0 < len(shown) <= 25
    assert "\n" not in shown
    assert figures.figure_svg(figures.token_strip([piece, "b"])).startswith("<svg")


def test_token_strip_boxes_follow_each_other_and_wrap():
    chart = figures.token_strip(["word"] * 60, picked=50, prompt_length=20)
    boxes = rows(first(chart, "rect"))
    assert [b["token"] for b in boxes] == list(range(60))
    assert max(b["x2"] for b in boxes) <= 680
    lines = [b["line"] for b in boxes]
    assert lines == sorted(lines)
    assert lines[-1] > 0
    for before, after in zip(boxes, boxes[1:], strict=False):
        assert after["x"] >= before["x2"] or after["line"] == before["line"] + 1
    assert [b["part"] for b in boxes].index("generated") == 20
    assert selection(chart)["fields"] == ["token"]


def test_cell_figure_marks_the_chosen_experts_and_their_mix():
    probs = np.array([0.1, 0.6, 0.2, 0.1])
    chart = figures.cell_probabilities(probs, [1, 2], label="L4", piece="▁the")
    bars = rows(first(chart, "bar"))
    assert [b["value"] for b in bars] == pytest.approx(probs)
    assert [b["chosen"] for b in bars] == [False, True, True, False]
    assert rows(first(chart, "rule")) == [{"value": 0.25}]
    assert "75% : 25%" in title_text(chart)


def test_candidates_keep_their_order_even_when_two_read_alike():
    chart = figures.candidate_bars(["a", "a", "b"], np.array([0.5, 0.3, 0.2]), chosen=1)
    bars = rows(first(chart, "bar"))
    assert [b["value"] for b in bars] == [0.5, 0.3, 0.2]
    assert len({b["name"] for b in bars}) == 3
    assert [b["next"] for b in bars] == [False, True, False]


def test_load_is_drawn_against_its_band_and_the_even_share():
    load = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    chart = figures.load_by_layer(load, 0.15, 0.35, LABELS[:2])
    points = rows(first(chart, "circle"))
    assert [p["value"] for p in points] == pytest.approx(load.ravel())
    assert [p["place"] for p in points[:4]] == ["below", "within", "within", "above"]
    assert rows(first(chart, "rect")) == [{"value": 0.15, "high": 0.35}]
    assert rows(first(chart, "rule")) == [{"value": 0.25}]
    assert "2 of 8 outside" in title_text(chart)
    nearest = [round(p["x"]) for p in points]
    assert nearest == [p["layer"] for p in points]


def test_coselection_is_coloured_from_chance_and_masks_the_diagonal():
    lift = np.array([[np.nan, 2.0, 0.0], [2.0, np.nan, 1.0], [0.0, 1.0, np.nan]])
    counts = np.arange(9).reshape(3, 3)
    chart = figures.coselection_matrix(lift, counts, label="L4")
    cells = first(chart, "rect")
    assert {(c["ea"], c["eb"]): (c["lift"], c["log2"], c["tokens"]) for c in rows(cells)} == {
        (0, 1): (2, 1, 1),
        (0, 2): (0, -2, 2),
        (1, 0): (2, 1, 3),
        (1, 2): (1, 0, 5),
        (2, 0): (0, -2, 6),
        (2, 1): (1, 0, 7),
    }
    assert cells["encoding"]["color"]["scale"]["domainMid"] == 0


def test_paths_are_the_largest_flows_and_no_empty_ones():
    counts = np.zeros((2, 3, 3), dtype=int)
    counts[0, 1, 2], counts[0, 0, 0], counts[1, 2, 1], counts[1, 0, 2] = 5, 2, 4, 3
    chart = figures.routing_paths(counts, LABELS, most=3)
    flows = rows(first(chart, "rule"))
    found = {(f["layer"], f["source"], f["target"]): f["tokens"] for f in flows}
    assert found == {(0, 1, 2): 5, (1, 2, 1): 4, (1, 0, 2): 3}
    assert "of 7" in title_text(chart)
    assert {(n["x"], n["digit"]) for n in rows(first(chart, "circle"))} == {
        (0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (2, 2)
    }  # fmt: skip
    assert selection(chart)["fields"] == ["layer", "source", "target"]


def test_paths_through_many_experts_draw_only_those_on_a_drawn_flow():
    counts = np.ones((127, 256, 256), dtype=np.int8)
    chart = figures.routing_paths(counts, [f"L{i}" for i in range(128)], most=50)
    nodes = {(n["x"], n["digit"]) for n in rows(first(chart, "circle"))}
    flows = rows(first(chart, "rule"))
    ends = {(f["layer"], f["source"]) for f in flows}
    assert nodes == ends | {(f["layer"] + 1, f["target"]) for f in flows}


def test_comparison_names_both_tokens_where_they_differ(values):
    chart = figures.compare_maps(values - 1, "margin", PIECES, [*PIECES[:4], "x"], LABELS)
    cells = first(chart, "rect")
    columns = cells["encoding"]["x"]["scale"]["domain"]
    assert columns[2] == "2 cat"
    assert columns[4] == "4 мир | x"
    low, high = cells["encoding"]["color"]["scale"]["domain"]
    assert low == -high
    for cell in rows(cells):
        expected = values[cell["layer"], cell["token"]] - 1
        assert cell["value"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_layer_lines_draw_each_quantity_beside_its_own_chance():
    chart = figures.layer_lines(
        {"first": np.array([0.1, 0.2, 0.3]), "any": np.array([0.4, 0.5, 0.6])},
        LABELS,
        title="Repeats",
        unit="share",
        chance={"first": 0.125, "any": None},
    )
    points = rows(first(chart, "circle"))
    assert [p["value"] for p in points if p["name"] == "any"] == pytest.approx([0.4, 0.5, 0.6])
    rules = [v for v in views(chart.to_dict()) if mark(v) == "rule"]
    assert [rows(v) for v in rules] == [[{"name": "first", "value": 0.125}]]
