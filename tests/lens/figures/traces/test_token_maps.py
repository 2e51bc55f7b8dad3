"""Figures of a prompt show every token's values, prompt and answer apart."""

from __future__ import annotations

import numpy as np
import pytest

from lens import figures
from lens.errors import LensError
from lens.figures.traces.token_maps import token_domain
from lens.stats.permutation_tests import against_chance
from tests.lens.figures.figure_reading import first, mark, marks, rows, selection, title_text, views

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
    many = figures.token_layer_map(np.full((1, 120), 255), "top1", ["a"] * 120, ["L0"])
    # A digit is 0.56 of its size wide; three keep 3 pixels clear of the next cell's.
    wide = 3 * 0.56 * first(many, "text")["mark"]["fontSize"]
    assert wide <= many.to_dict()["width"]["step"] - 3


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


def test_a_strip_says_token_and_experts_and_has_the_colours_of_the_map():
    experts = np.array([[4, 1], [0, -1], [4, 2]])
    chart = figures.token_strip(["a", "b", "c"], experts=experts)
    boxes = first(chart, "rect")
    assert [row["experts"] for row in rows(boxes)] == ["E4 E1", "E0", "E4 E2"]
    assert [row["shade"] for row in rows(boxes)] == [figures.OKABE_ITO[e] for e in (4, 0, 4)]
    tips = {tip["title"]: tip["field"] for tip in boxes["encoding"]["tooltip"] if "title" in tip}
    assert tips["token"] == "piece" and tips["experts, in order of choice"] == "experts"
    values = np.array([[0.5, 1.5, 1.0], [0.1, 3.0, 2.0]])
    shown = figures.token_strip(
        ["a", "b", "c"],
        figures.StripColours(values[0], "margin", "L0", token_domain(values, "margin", 8)),
        experts=experts,
    )
    drawn = figures.token_layer_map(values, "margin", ["a", "b", "c"], LABELS[:2])
    scales = [first(one, "rect")["encoding"]["color"]["scale"] for one in (shown, drawn)]
    assert scales[0] == scales[1]


def test_a_cell_of_first_choices_names_the_second_too():
    experts = np.array([[[4, 1], [0, 3]]])
    chart = figures.token_layer_map(experts[:, :, 0], "top1", ["a", "b"], ["L0"], experts=experts)
    assert [cell["experts"] for cell in rows(first(chart, "rect"))] == ["E4 E1", "E0 E3"]


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
    assert "75\u00a0% : 25\u00a0%" in title_text(chart)


def test_candidates_keep_their_order_even_when_two_read_alike():
    chart = figures.candidate_bars(["a", "a", "b"], np.array([0.5, 0.3, 0.2]), chosen=1)
    bars = rows(first(chart, "bar"))
    assert [b["value"] for b in bars] == [0.5, 0.3, 0.2]
    assert len({b["name"] for b in bars}) == 3
    assert [b["next"] for b in bars] == [False, True, False]
    assert "a 0.500, a 0.300, b 0.200" in chart.to_dict()["description"]


def test_load_is_drawn_against_its_band_and_the_even_share():
    load = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    chart = figures.load_by_layer(load, 0.15, 0.35, LABELS[:2])
    points = rows(first(chart, "point"))
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
    chart = figures.difference_map(values - 1, "margin", PIECES, [*PIECES[:4], "x"], LABELS)
    cells = first(chart, "rect")
    columns = cells["encoding"]["x"]["scale"]["domain"]
    assert columns[2] == "2 cat"
    assert columns[4] == "4 мир | x"
    low, high = cells["encoding"]["color"]["scale"]["domain"]
    assert low == -high
    for cell in rows(cells):
        expected = values[cell["layer"], cell["token"]] - 1
        assert cell["value"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def beside_null(seed, n_layers=3):
    rng = np.random.default_rng(seed)
    value = rng.uniform(0, 1, n_layers)
    return against_chance(value, rng.uniform(0, 0.5, (99, n_layers)), seed=4, method="draws")


def test_chance_lines_hold_value_band_and_null_of_every_layer():
    tests = {"one": beside_null(0), "two": beside_null(1)}
    chart = figures.chance_lines(tests, LABELS, title="T", unit="nats")
    assert "99 draws, seed 4" in title_text(chart)
    points = [r for r in rows(first(chart, "point")) if r["name"] == "two"]
    assert [r["value"] for r in points] == pytest.approx(tests["two"].value, rel=1e-5)
    band = [r for r in rows(first(chart, "area")) if r["name"] == "one"]
    assert [r["low"] for r in band] == pytest.approx(tests["one"].low, rel=1e-5)
    assert [r["high"] for r in band] == pytest.approx(tests["one"].high, rel=1e-5)
    assert figures.figure_svg(chart).startswith("<svg")


def test_only_rare_points_of_chance_lines_are_filled():
    chart = figures.chance_lines({"one": beside_null(0)}, LABELS, title="T", unit="nats")
    filters = {
        v["mark"]["filled"]: v["transform"][0]["filter"]
        for v in views(chart.to_dict())
        if "transform" in v
    }
    assert filters[True] == "datum.q !== null && datum.q <= 0.05"
    assert filters[False] == f"!({filters[True]})"


def test_one_layer_still_has_a_band_with_a_width():
    chart = figures.chance_lines({"one": beside_null(0, 1)}, ["L0"], title="T", unit="nats")
    places = [r["x"] for r in rows(first(chart, "area"))]
    assert max(places) > min(places)


def test_load_whiskers_are_the_intervals():
    load = np.array([[0.1, 0.2, 0.3, 0.4]])
    low, high = load - 0.05, load + 0.02
    chart = figures.load_by_layer(load, 0.15, 0.35, ["L0"], interval=(low, high))
    points = rows(first(chart, "point"))
    assert [p["least"] for p in points] == pytest.approx(low[0])
    assert [p["most"] for p in points] == pytest.approx(high[0])
    encoding = next(v for v in views(chart.to_dict()) if mark(v) == "point")["encoding"]
    assert encoding["shape"]["field"] == encoding["color"]["field"]  # told apart in grey too
    bars = [v for v in views(chart.to_dict()) if mark(v) == "rule" and "y2" in v["encoding"]]
    assert [v["encoding"]["y2"]["field"] for v in bars] == ["most"]


def test_rare_pairs_are_outlined():
    lift, q = np.full((3, 3), 1.5), np.full((3, 3), 0.5)
    q[0, 2] = q[2, 0] = 0.01
    chart = figures.coselection_matrix(lift, label="L4", q=q)
    outlines = [v for v in views(chart.to_dict()) if mark(v) == "rect" and len(rows(v)) == 2]
    assert len(outlines) == 2
    assert {(r["a"], r["b"]) for r in rows(outlines[0])} == {("E0", "E2"), ("E2", "E0")}
    assert "q ≤ 0.05 (1)" in title_text(chart)
    assert (
        len(views(figures.coselection_matrix(lift, label="L4").to_dict()))
        == len(views(chart.to_dict())) - 2
    )


def test_margins_stand_beside_those_of_normal_logits():
    measured, normal = np.arange(15.0).reshape(3, 5), np.arange(15.0).reshape(3, 5) / 2
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    boxes = rows(first(figures.margin_quantiles(measured, normal, levels, LABELS), "bar"))
    found = {(b["layer"], b["what"]): [b[f"q{i}"] for i in range(5)] for b in boxes}
    assert found["L4", "measured"] == [5, 6, 7, 8, 9]
    assert found["L8", "normal logits"] == [5, 5.5, 6, 6.5, 7]


def test_the_histogram_of_margins_starts_at_zero_and_shows_what_is_expected():
    chart = figures.margin_histogram(
        np.array([0.0, 1, 2]), np.array([3, 4]), np.array([5.0, 2]), label="L4"
    )
    bars = first(chart, "rect")
    assert bars["encoding"]["y2"] == {"datum": 0}
    assert [(b["from"], b["to"], b["tokens"]) for b in rows(bars)] == [(0, 1, 3), (1, 2, 4)]
    assert [p["expected"] for p in rows(first(chart, "line"))] == [5, 5, 2, 2]
    assert "7 tokens" in title_text(chart)


def test_predicted_loads_are_drawn_against_the_measured():
    measured = np.array([[0.1, 0.9], [0.4, 0.6]])
    chart = figures.predicted_load(measured, {"a": measured / 2, "b": 1 - measured}, LABELS[:2])
    points = rows(first(chart, "point"))
    found = {(p["name"], p["by"]): (p["predicted"], p["measured"]) for p in points}
    assert found["L4·E1", "a"] == pytest.approx((0.3, 0.6))
    assert found["L0·E0", "b"] == pytest.approx((0.9, 0.1))
    assert selection(chart)["fields"] == ["layer", "expert"]


def test_lift_by_label_outlines_what_is_rare_and_leaves_out_what_is_unknown():
    lift = np.array([[2.0, np.nan], [0.5, 1.0]])
    q = np.array([[0.01, np.nan], [0.2, 0.9]])
    chart = figures.label_lift(lift, q, np.full((2, 2), 0.5), ["code", "prose"], label="L4")
    cells = rows(first(chart, "rect"))
    assert {(c["a"], c["b"]): c["lift"] for c in cells} == {
        ("code", "E0"): 2, ("code", "E1"): None, ("prose", "E0"): 0.5, ("prose", "E1"): 1
    }  # fmt: skip
    outlines = [v for v in views(chart.to_dict()) if mark(v) == "rect" and len(rows(v)) == 1]
    assert rows(outlines[0]) == [{"a": "code", "b": "E0"}]
    assert "(1 here)" in title_text(chart)


def test_load_by_label_keeps_labels_of_one_trace_without_whiskers():
    share = np.array([[0.5, 0.5], [0.2, 0.8]])
    low = np.array([[0.4, 0.4], [np.nan, np.nan]])
    chart = figures.label_load(share, low, low + 0.2, ["a", "b"], label="L0")
    points = rows(first(chart, "circle"))
    assert [(p["label"], p["expert"], p["load"]) for p in points] == [
        ("a", "E0", 0.5), ("a", "E1", 0.5), ("b", "E0", 0.2), ("b", "E1", 0.8)
    ]  # fmt: skip
    assert [p["low"] for p in points] == [0.4, 0.4, None, None]
    whiskers = [v for v in views(chart.to_dict()) if "transform" in v]
    assert whiskers[0]["transform"] == [{"filter": "datum.low !== null"}]
    assert len({p["x"] for p in points}) == 4
