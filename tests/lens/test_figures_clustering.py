"""Figures of trees and maps show what was computed, aligned and labelled."""

from __future__ import annotations

import numpy as np
import pytest
from figure_reading import first, mark, rows, selection, title_text, views

from lens import figures
from lens.clustering import cut_tree, layer_tree, tree_of_distances
from lens.embedding import LayerMap, layer_map
from lens.errors import LensError
from lens.figures.clustering import cut_height
from lens.gram import router_gram
from lens.routers import RouterSet
from lens.similarity import layer_similarity

LABELS = [f"L{i}" for i in range(6)]


@pytest.fixture
def routers() -> RouterSet:
    return RouterSet(np.random.default_rng(0).normal(size=(6, 32, 4)).astype(np.float32))


@pytest.fixture
def gram(routers):
    return router_gram(routers)


def test_dendrogram_draws_three_lines_a_merge_up_to_its_height(gram):
    tree = layer_tree(gram)
    lines = rows(first(figures.layer_dendrogram(tree, LABELS), "rule"))
    bars = sorted(line["y0"] for line in lines if line["y0"] == line["y1"])
    assert len(lines) == 3 * 5
    assert bars == pytest.approx(sorted(tree.linkage[:, 2]), rel=1e-5)


def test_a_tree_of_layers_far_from_each_other_is_drawn_from_just_below_its_merges(gram):
    tree = layer_tree(gram)
    chart = figures.layer_dendrogram(tree, LABELS)
    heights = tree.linkage[:, 2]
    lines = first(chart, "rule")
    foot = lines["encoding"]["y"]["scale"]["domainMin"]
    assert 0.5 * heights.min() < foot < heights.min()
    assert min(line["y0"] for line in rows(lines)) == pytest.approx(foot, rel=1e-5)
    assert "does not start at 0" in title_text(chart)


def test_a_tree_with_near_layers_is_drawn_from_zero():
    tree = tree_of_distances(np.array([[0, 0.1, 1.0], [0.1, 0, 0.9], [1.0, 0.9, 0]]), "average")
    chart = figures.layer_dendrogram(tree, LABELS[:3])
    assert first(chart, "rule")["encoding"]["y"]["scale"]["domainMin"] == 0
    assert "does not start at 0" not in title_text(chart)


@pytest.mark.parametrize("clusters", [1, 2, 4, 6])
def test_the_cut_rule_crosses_as_many_branches_as_there_are_groups(gram, clusters):
    tree = layer_tree(gram)
    height = cut_height(tree, clusters)
    assert np.sum(tree.linkage[:, 2] > height) == clusters - 1
    assert len(set(cut_tree(tree, clusters))) == clusters
    rules = [
        v
        for v in views(figures.layer_dendrogram(tree, LABELS, clusters).to_dict())
        if mark(v) == "rule"
    ]
    assert rows(rules[-1]) == [{"y0": pytest.approx(height, rel=1e-5)}]


def test_a_cut_into_more_groups_than_layers_is_refused(gram):
    with pytest.raises(LensError, match="from 1 to 6"):
        figures.layer_dendrogram(layer_tree(gram), LABELS, 7)


def test_tree_and_heatmap_have_the_same_order_and_width(gram):
    tree = layer_tree(gram)
    chart = figures.dendrogram_with_heatmap(tree, layer_similarity(gram), LABELS, "cka")
    spec = chart.to_dict()
    above, below = spec["vconcat"]
    n_layers = len(LABELS)
    assert above["width"] == below["width"]["step"] * n_layers
    place = views(above, spec["datasets"])[0]["encoding"]["x"]["scale"]["domain"]
    assert place == [-0.5, n_layers - 0.5]
    shown = views(below, spec["datasets"])[0]["encoding"]["x"]["scale"]["domain"]
    assert shown == [LABELS[row] for row in tree.order]
    assert selection(chart)["fields"] == ["la", "lb"]


def test_map_holds_every_layer_at_its_place_with_equal_spans(routers, gram):
    found = layer_map(routers, gram, "mds")
    chart = figures.layer_scatter(found, LABELS)
    points = first(chart, "circle")
    shown = np.array([[p["x"], p["y"]] for p in rows(points)])
    assert shown == pytest.approx(found.points, rel=1e-4, abs=1e-6)
    spans = [np.ptp(points["encoding"][axis]["scale"]["domain"]) for axis in "xy"]
    assert spans[0] == pytest.approx(spans[1])
    assert selection(chart)["fields"] == ["layer"]
    text = title_text(chart)
    assert "classical MDS" in text
    assert f"trustworthiness {found.trustworthiness:.2f}" in text


def test_map_states_seed_and_perplexity():
    settings = {"perplexity": 1.5, "seed": 42}
    found = LayerMap(np.zeros((6, 2)), None, 0.9, "tsne", settings)
    assert "perplexity 1.5, seed 42" in title_text(figures.layer_scatter(found, LABELS))


def test_groups_on_a_map_have_a_digit_beside_their_colour():
    found = LayerMap(np.random.default_rng(0).normal(size=(6, 2)), None, 0.9, "umap", {})
    clusters = np.array([1, 1, 2, 2, 3, 3])
    chart = figures.layer_scatter(found, LABELS, clusters=clusters)
    points = first(chart, "circle")
    assert [p["cluster"] for p in rows(points)] == clusters.tolist()
    assert points["encoding"]["color"]["scale"]["domain"] == [1, 2, 3]
    assert first(chart, "text")["encoding"]["text"]["field"] == "cluster"


def test_explained_variance_shows_shares_and_their_running_sum():
    found = LayerMap(np.zeros((6, 2)), np.array([0.5, 0.25]), 0.9, "pca", {})
    bars = rows(first(figures.explained_variance(found), "bar"))
    assert [b["share"] for b in bars] == [0.5, 0.25]
    assert [b["sum"] for b in bars] == [0.5, 0.75]


def test_a_map_without_axes_of_variance_says_so():
    found = LayerMap(np.zeros((6, 2)), None, 0.9, "umap", {})
    with pytest.raises(LensError, match="UMAP map has no axes of variance"):
        figures.explained_variance(found)
