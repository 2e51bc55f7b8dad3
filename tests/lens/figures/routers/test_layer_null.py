"""Figures of layers against chance hold the null they are given, and say what it was."""

from __future__ import annotations

import numpy as np
import pytest

from lens import figures
from lens.layers.bootstrap import Intervals
from lens.layers.pair_null import LayerNull, layer_null
from lens.layers.shared_directions import shared_null, without_shared
from lens.layers.similarity import adjacent_layers, layer_similarity
from lens.layers.transitions import drawn_series, transitions
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet
from tests.lens.figures.figure_reading import first, mark, marks, rows, selection, title_text, views

LABELS = [f"L{i}" for i in (3, 7, 8, 11, 20)]


@pytest.fixture(scope="module")
def gram():
    weights = np.random.default_rng(1).normal(size=(5, 32, 4)).astype(np.float32)
    weights[1] = weights[0] + 0.1 * weights[1]  # one pair that is alike
    return router_gram(RouterSet(weights))


@pytest.fixture(scope="module")
def null(gram) -> LayerNull:
    return layer_null(gram, "cka", draws=99, seed=5)


def heatmap(gram, null, **options):
    similarity = layer_similarity(gram, "cka")
    return figures.layer_null_heatmap(
        null, similarity, options.pop("order", None), LABELS, **options
    )


def test_cells_hold_similarity_z_p_and_q_of_their_pair(gram, null):
    similarity = layer_similarity(gram, "cka")
    cells = rows(first(heatmap(gram, null), "rect"))
    assert {(c["la"], c["lb"]) for c in cells} == {
        (a, b) for a in range(5) for b in range(5) if a != b
    }
    for cell in cells:
        at = cell["la"], cell["lb"]
        assert (cell["a"], cell["b"]) == (LABELS[at[0]], LABELS[at[1]])
        assert cell["value"] == pytest.approx(similarity[at], rel=1e-5)
        for field in ("z", "p", "q"):
            assert cell[field] == pytest.approx(getattr(null, field)[at], rel=1e-5)


def test_colours_have_no_difference_from_chance_in_their_middle(gram, null):
    scale = first(heatmap(gram, null), "rect")["encoding"]["color"]["scale"]
    low, high = scale["domain"]
    assert scale["domainMid"] == 0
    assert high == -low >= 4


def test_only_pairs_beyond_chance_are_coloured_when_asked(gram, null):
    cells = first(heatmap(gram, null, only_beyond=True), "rect")
    beyond = {(c["la"], c["lb"]) for c in rows(cells) if c["beyond"] == "yes"}
    assert beyond == {(a, b) for a, b in np.argwhere(null.q <= 0.05).tolist()}
    assert {(0, 1), (1, 0)} <= beyond
    assert "beyond" in str(cells["encoding"]["color"]["condition"])
    assert "Grey: not distinguishable from it" in title_text(heatmap(gram, null, only_beyond=True))


def test_cells_say_their_place_among_all_pairs(gram, null):
    cells = rows(first(heatmap(gram, null), "rect"))
    place = {cell["place"] for cell in cells}
    assert len(place) == 10 and min(place) == 0 and max(place) == 1
    best = max(cells, key=lambda cell: cell["value"])
    assert best["place"] == 1 and {best["la"], best["lb"]} == {0, 1}


def test_what_is_left_of_the_layers_is_shown_where_directions_were_taken_away(gram):
    null = shared_null(without_shared(gram, 1), draws=20)
    chart = heatmap(gram, null)
    cell = rows(first(chart, "rect"))[0]
    assert cell["judged"] == pytest.approx(null.similarity[cell["la"], cell["lb"]], rel=1e-5)
    assert "alike more than the directions that all layers share" in title_text(chart)
    assert "the largest direction that all layers share taken away" in title_text(chart)


def test_title_says_how_many_pairs_which_null_how_many_draws_and_the_seed(gram, null):
    text = title_text(heatmap(gram, null))
    assert f"{null.found()} of 10 pairs" in text
    assert null.method in text
    assert "99 draws, seed 5" in text
    assert f"{null.found()} of 10 pairs" in figures.alt_text(heatmap(gram, null))


def test_a_click_gives_both_rows_and_the_picked_cell_is_outlined(gram, null):
    chart = heatmap(gram, null, picked=(1, 3), order=[4, 0, 2, 1, 3])
    assert selection(chart)["fields"] == ["la", "lb"]
    rings = [v for v in views(chart.to_dict()) if mark(v) == "rect"][1:]
    assert [rows(ring) for ring in rings] == [[{"a": "L7", "b": "L11"}]] * 2
    assert first(chart, "rect")["encoding"]["x"]["scale"]["domain"] == [
        LABELS[row] for row in (4, 0, 2, 1, 3)
    ]


def test_the_largest_set_stays_within_what_a_browser_draws():
    flat = np.zeros((128, 128))
    null = LayerNull("cka", flat, flat, flat, flat, flat + 1, flat + 1, 99, 0, "made")
    chart = figures.layer_null_heatmap(null, flat, None, [f"L{i}" for i in range(128)])
    assert marks(chart) == 128 * 127 <= 20_000


def adjacent_figure(gram, intervals=None):
    null = drawn_series(gram, layer_null(gram, "cka", draws=99, seed=5), draws=99, seed=5)
    labels = LABELS[: gram.n_layers]
    adjacent = adjacent_layers(gram, "cka")
    found = transitions(adjacent, null, seed=5)
    chart = figures.adjacent_against_chance(
        adjacent, null, found, labels, "cka", intervals, "unrelated"
    )
    return chart, adjacent, null, found


def test_neighbours_hold_value_band_change_and_p(gram):
    chart, adjacent, null, found = adjacent_figure(gram)
    points = rows(first(chart, "point"))
    assert [(p["la"], p["lb"]) for p in points] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert [p["value"] for p in points] == pytest.approx(adjacent.similarity, rel=1e-5)
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    assert [p["low"] for p in points] == pytest.approx(low, rel=1e-5)
    assert [p["high"] for p in points] == pytest.approx(high, rel=1e-5)
    assert [p["p"] for p in points][1:] == pytest.approx(found.p[1:], rel=1e-5)
    assert points[0]["p"] is None  # nothing comes before the first pair
    assert selection(chart)["fields"] == ["la", "lb"]


def test_neighbours_say_draws_seed_and_the_largest_change_by_chance(gram):
    chart, _, _, found = adjacent_figure(gram)
    text = title_text(chart)
    assert "99 draws (unrelated directions)" in text
    assert "seed 5" in text
    assert f"beyond {found.threshold:.3g}" in text
    assert "bootstrap" not in text
    assert "chance band" in figures.alt_text(chart)


def test_intervals_are_bars_when_given(gram):
    values = adjacent_layers(gram, "cka").similarity
    made = Intervals(
        value=values, low=values - 0.1, high=values + 0.2, level=0.95, draws=99, seed=5
    )
    chart, *_ = adjacent_figure(gram, made)
    bars = rows(first(chart, "rule"))
    assert [b["from"] for b in bars] == pytest.approx(values - 0.1, rel=1e-5)
    assert [b["to"] for b in bars] == pytest.approx(values + 0.2, rel=1e-5)
    assert "bootstrap interval" in title_text(chart)


def test_two_layers_have_a_band_and_no_transitions():
    weights = np.random.default_rng(2).normal(size=(2, 32, 4)).astype(np.float32)
    chart, *_ = adjacent_figure(router_gram(RouterSet(weights)))
    assert len(rows(first(chart, "rect"))) == 1
    assert "Transitions need three layers" in title_text(chart)
    assert "nan" not in title_text(chart)
