"""Figures of layers show the numbers they are given, on fixed colours."""

from __future__ import annotations

import numpy as np
import pytest

from lens import figures
from lens.layers.similarity import LAYER_METRICS, adjacent_layers, layer_pair
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet
from lens.stats.chance import Chance
from tests.lens.figures.figure_reading import first, mark, marks, rows, selection, title_text, views

LABELS = [f"L{i}" for i in (3, 7, 8, 11, 20)]
CHANCE = Chance(0.02, 0.01, 0.005, 0.04, 0.035, 0.039, 100, 0, "drawn")


@pytest.fixture
def similarity() -> np.ndarray:
    values = np.random.default_rng(0).uniform(0, 1, (5, 5))
    values = (values + values.T) / 2
    np.fill_diagonal(values, 1)
    return values


@pytest.fixture
def gram():
    weights = np.random.default_rng(1).normal(size=(5, 32, 4)).astype(np.float32)
    return router_gram(RouterSet(weights))


def heatmap(similarity, **options):
    given = {"order": None, "labels": LABELS, "metric": "cka", "chance": CHANCE, **options}
    return figures.layer_similarity_heatmap(similarity, **given)


def test_heatmap_cells_hold_the_similarities_under_their_rows_and_labels(similarity):
    for row in rows(first(heatmap(similarity), "rect")):
        assert row["value"] == pytest.approx(similarity[row["la"], row["lb"]], rel=1e-5)
        assert (row["a"], row["b"]) == (LABELS[row["la"]], LABELS[row["lb"]])


def test_heatmap_leaves_the_diagonal_out_and_nothing_else(similarity):
    cells = {(row["la"], row["lb"]) for row in rows(first(heatmap(similarity), "rect"))}
    assert cells == {(a, b) for a in range(5) for b in range(5) if a != b}


def test_heatmap_draws_layers_in_the_order_asked_for_but_keeps_their_rows(similarity):
    order = [4, 0, 2, 1, 3]
    cells = first(heatmap(similarity, order=order), "rect")
    shown = [LABELS[row] for row in order]
    assert cells["encoding"]["x"]["scale"]["domain"] == shown
    assert cells["encoding"]["y"]["scale"]["domain"] == shown
    plain = {(r["la"], r["lb"], r["value"]) for r in rows(first(heatmap(similarity), "rect"))}
    assert {(r["la"], r["lb"], r["value"]) for r in rows(cells)} == plain


@pytest.mark.parametrize("metric", list(LAYER_METRICS))
def test_heatmap_colours_do_not_depend_on_the_values(metric, similarity):
    scales = [
        first(heatmap(values, metric=metric), "rect")["encoding"]["color"]["scale"]
        for values in (similarity, similarity * 0.01)
    ]
    assert scales[0] == scales[1]
    assert scales[0]["domain"] == list(LAYER_METRICS[metric].domain)


def test_diverging_colours_have_the_chance_level_in_their_middle(similarity):
    scale = first(heatmap(similarity, metric="matched_cosine"), "rect")["encoding"]["color"][
        "scale"
    ]
    assert scale["scheme"] == "blueorange"
    assert scale["domainMid"] == CHANCE.mean


def test_a_domain_given_replaces_the_fixed_one_and_the_title_says_so(similarity):
    chart = heatmap(similarity, domain=(0.1, 0.3))
    assert first(chart, "rect")["encoding"]["color"]["scale"]["domain"] == [0.1, 0.3]
    assert "fitted to these data" in title_text(chart)
    assert "the same for every router set" in title_text(heatmap(similarity))


def test_heatmap_click_gives_the_rows_of_both_layers(similarity):
    select = selection(heatmap(similarity))
    assert select["type"] == "point"
    assert select["fields"] == ["la", "lb"]


def test_nothing_is_picked_before_a_click(similarity):
    parts = views(heatmap(similarity).to_dict())
    params = [param for part in parts for param in part.get("params", [])]
    assert params and all("value" not in param for param in params)


def test_picked_cell_is_outlined_in_white_over_black(similarity):
    outlines = [
        view
        for view in views(heatmap(similarity, picked=(1, 3)).to_dict())
        if mark(view) == "rect" and view["mark"].get("filled") is False
    ]
    assert [view["mark"]["stroke"] for view in outlines] == ["#000000", "#FFFFFF"]
    assert outlines[0]["mark"]["strokeWidth"] > outlines[1]["mark"]["strokeWidth"]
    assert all(rows(view) == [{"a": "L7", "b": "L11"}] for view in outlines)


def test_title_and_alt_text_state_metric_and_chance_level(similarity):
    chart = heatmap(similarity)
    for text in (title_text(chart), figures.alt_text(chart)):
        assert "CKA" in text
        assert "0.02" in text
    assert "not computed" in title_text(heatmap(similarity, chance=None))


def test_the_largest_heatmap_stays_within_what_a_browser_draws():
    labels = [f"L{i}" for i in range(128)]
    chart = figures.layer_similarity_heatmap(np.eye(128), None, labels, "cka")
    assert marks(chart) == 128 * 127 <= 20_000


def test_layer_change_shows_the_norms_of_the_differences(gram):
    adjacent = adjacent_layers(gram)
    points = rows(first(figures.layer_change(adjacent, LABELS), "circle"))
    assert [p["value"] for p in points] == pytest.approx(adjacent.change_l2, rel=1e-5)


def test_pair_matrix_outlines_the_matching_and_nothing_else(gram):
    pair = layer_pair(gram, 1, 3)
    names = figures.expert_names("L7", 4), figures.expert_names("L11", 4)
    chart = figures.pair_matrix(pair, *names)
    cells = first(chart, "rect")
    for row in rows(cells):
        assert row["value"] == pytest.approx(pair.cosines[row["ea"], row["eb"]], rel=1e-5)
    outlines = [v for v in views(chart.to_dict()) if mark(v) == "rect"][1]
    assert rows(outlines) == [{"a": f"L7·E{k}", "b": f"L11·E{pair.partner[k]}"} for k in range(4)]
    assert selection(chart)["fields"] == ["ea", "eb"]


def test_figure_of_a_value_says_on_which_side_of_the_band_a_value_lies():
    samples = np.linspace(0, 0.05, 100)
    assert "above the band" in title_text(figures.value_against_null(0.5, CHANCE, name="CKA"))
    assert "below the band" in title_text(figures.value_against_null(0.001, CHANCE, name="CKA"))
    chart = figures.value_against_null(0.02, CHANCE, name="CKA", samples=samples)
    assert "within the band" in title_text(chart)
    assert sum(row["draws"] for row in rows(first(chart, "rect"))) == 100


def test_fitted_domain_is_symmetric_about_its_middle_and_never_empty():
    low, high = figures.fitted_domain(np.array([0.0, 0.1, np.nan, 0.5]), middle=0.1)
    assert high - 0.1 == pytest.approx(0.1 - low)
    low, high = figures.fitted_domain(np.full(4, 2.0))
    assert low < 2 < high
