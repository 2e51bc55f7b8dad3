"""Figures of experts show the numbers they are given and say what an index means."""

from __future__ import annotations

import numpy as np
import pytest

from lens import figures
from lens.experts.measures import expert_measures
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet
from tests.lens.figures.figure_reading import first, mark, marks, rows, selection, title_text, views

LABELS = ["L2", "L5", "L9"]


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 2, (3, 6))


@pytest.fixture
def measures():
    routers = RouterSet(np.random.default_rng(1).normal(size=(3, 40, 6)).astype(np.float32))
    return expert_measures(routers, router_gram(routers))


def test_expert_map_holds_every_expert_under_its_name(values):
    chart = figures.expert_map(values, LABELS, "norm")
    cells = rows(first(chart, "rect"))
    assert len(cells) == 18
    for row in cells:
        assert row["value"] == pytest.approx(values[row["layer"], row["expert"]], rel=1e-5)
        assert row["name"] == f"{LABELS[row['layer']]}·E{row['expert']}"
    assert selection(chart)["fields"] == ["layer", "expert"]


def test_expert_map_says_that_an_index_is_not_one_expert(values):
    assert "not the same expert" in title_text(figures.expert_map(values, LABELS, "breadth", 0.25))


def test_expert_map_of_a_measure_with_a_baseline_is_coloured_from_it(values):
    scale = first(figures.expert_map(values, LABELS, "breadth", 1.4), "rect")["encoding"]["color"]
    assert scale["scale"]["domainMid"] == 1.4
    low, high = scale["scale"]["domain"]
    assert high - 1.4 == pytest.approx(1.4 - low)


def test_expert_map_of_many_experts_shows_the_outlier_of_each_row():
    values = np.zeros((128, 256))
    values[5, 201] = 9.0
    chart = figures.expert_map(values, [f"L{i}" for i in range(128)], "norm", picked=(5, 201))
    assert marks(chart) <= 20_000
    cells = rows(first(chart, "rect"))
    assert [(c["layer"], c["expert"]) for c in cells if c["value"] == 9.0] == [(5, 201)]
    outline = [v for v in views(chart.to_dict()) if mark(v) == "rect"][1]
    assert rows(outline) == [{"x": "L5", "y": "E200–201"}]


def test_similarity_across_layers_draws_each_pair_once_per_index():
    rng = np.random.default_rng(2)
    similarity = rng.uniform(-1, 1, (4, 3, 3))
    similarity = (similarity + similarity.transpose(0, 2, 1)) / 2
    chart = figures.expert_similarity_across_layers(similarity, LABELS, experts=[1, 3])
    cells = rows(views(chart.to_dict())[0])
    assert {c["panel"] for c in cells} == {"E1", "E3"}
    assert len(cells) == 2 * 3
    for cell in cells:
        e, a, b = int(cell["panel"][1:]), LABELS.index(cell["a"]), LABELS.index(cell["b"])
        assert cell["value"] == pytest.approx(similarity[e, a, b], rel=1e-5)
    assert "2 further indexes are not drawn" in title_text(chart)
    assert "classic view" in title_text(chart)


def test_similarity_across_many_layers_is_averaged_over_blocks():
    similarity = np.zeros((8, 128, 128))
    similarity[:, 10:12, 0:2] = 0.5
    labels = [f"L{i}" for i in range(128)]
    chart = figures.expert_similarity_across_layers(similarity, labels)
    cells = rows(views(chart.to_dict())[0])
    assert len(cells) <= 20_000
    found = [c for c in cells if c["value"] != 0]
    assert {(c["a"], c["b"], c["value"]) for c in found} == {("L10–L11", "L0–L1", 0.5)}
    assert "blocks of 2 layers" in title_text(chart)


def test_correlation_matrix_has_the_centred_baseline_in_its_middle_and_no_diagonal():
    matrix = np.random.default_rng(3).uniform(-0.3, 0.1, (5, 5))
    chart = figures.expert_correlation_matrix(matrix, picked=(0, 2))
    cells = first(chart, "rect")
    assert cells["encoding"]["color"]["scale"]["domainMid"] == pytest.approx(-1 / 4)
    assert {(c["ea"], c["eb"]) for c in rows(cells)} == {
        (a, b) for a in range(5) for b in range(5) if a != b
    }
    for cell in rows(cells):
        assert cell["value"] == pytest.approx(matrix[cell["ea"], cell["eb"]], rel=1e-5)
    assert "mean over layers" in title_text(chart)
    one = title_text(figures.expert_correlation_matrix(matrix, layer_label="L9"))
    assert "within L9" in one
    assert "mean over layers" not in one


def test_correlation_matrix_of_256_experts_stays_drawable():
    chart = figures.expert_correlation_matrix(np.zeros((256, 256)))
    assert marks(chart) <= 20_000


def test_variance_analysis_shows_three_measures_with_the_gaussian_baseline(measures):
    chart = figures.expert_variance_analysis(measures, LABELS, expert=2)
    spec = chart.to_dict()
    panels = spec["vconcat"]
    assert [panel["title"]["text"].split(" of ")[0] for panel in panels] == [
        "Variance",
        "L2 norm",
        "L1 / L2",
    ]
    for panel, name in zip(panels, ("variance", "norm", "l1_l2"), strict=True):
        points = rows(next(v for v in views(panel, spec["datasets"]) if mark(v) == "circle"))
        shown = sorted(p["value"] for p in points)
        assert shown == pytest.approx(sorted(getattr(measures, name).ravel()), rel=1e-4)
    rule = [v for v in views(panels[2], spec["datasets"]) if mark(v) == "rule"][-1]
    assert rows(rule)[0]["value"] == pytest.approx(measures.baselines["l1_l2"], rel=1e-5)


def test_breadth_and_load_are_both_shares_of_a_layer():
    breadth = np.array([[0.4, 0.6, 1.0], [0.8, 0.6, 0.6]])
    load = np.array([[0.2, 0.3, 0.5], [0.5, 0.25, 0.25]])
    chart = figures.breadth_against_load(breadth, load, LABELS[:2])
    points = rows([v for v in views(chart.to_dict()) if mark(v) == "circle"][0])
    assert [p["breadth"] for p in points] == pytest.approx([0.2, 0.3, 0.5, 0.4, 0.3, 0.3])
    assert [p["load"] for p in points] == pytest.approx(load.ravel())
    assert selection(chart)["fields"] == ["layer", "expert"]
